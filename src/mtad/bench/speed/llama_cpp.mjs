// Decodes prompts with llama.cpp: one request per line of input, one answer per line of output.
//
// Run by llama_engine.py in the folder that has node_modules/node-llama-cpp. The only argument is
// the number of threads. Seconds are taken in here, so that pipes and JSON are in none of them.

import {createInterface} from "node:readline";

process.execArgv.length = 0;  // the package tries its binaries in a process with the same ones
const numThreads = Number(process.argv.at(-1));
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const printed = [];  // what llama.cpp logs, for its own timings

async function started() {
    try {
        const library = await import("node-llama-cpp");
        const llama = await library.getLlama({
            gpu: false, build: "never", skipDownload: true, progressLogs: false,
            maxThreads: numThreads, logLevel: "info", logger: (level, text) => printed.push(text)
        });
        return {library, llama};
    } catch (error) {
        say({error: error.message, code: error.code ?? error.name});
        process.exit(1);
    }
}

const {library, llama} = await started();
const models = new Map();
const sequences = new Map();

async function modelOf(path) {
    if (!models.has(path))
        models.set(path, await llama.loadModel({modelPath: path}));
    return models.get(path);
}

async function sequenceOf(path, contextSize, tokenPredictor) {
    const model = await modelOf(path);
    const context = await model.createContext({
        contextSize, threads: numThreads, flashAttention: true, performanceTracking: true
    });
    return context.getSequence({tokenPredictor});
}

// By default the draft goes on beside the target, and where both are small nothing is ready in time.
async function predictorOf({draft, speculation, num_draft_tokens: num}, contextSize) {
    if (speculation === "lookup")
        return new library.InputLookupTokenPredictor();
    if (speculation !== "draft")
        return undefined;
    const sequence = await sequenceOf(draft, contextSize);
    return new library.DraftSequenceTokenPredictor(sequence, {minTokens: num, maxTokens: num});
}

// Contexts are kept, as a program that decodes many texts would keep them.
async function prepared(request) {
    const contextSize = 256 * Math.ceil((request.prompt.length + request.max_new_tokens + 32) / 256);
    const key = JSON.stringify([request.model, request.draft, request.speculation, contextSize]);
    if (!sequences.has(key)) {
        const predictor = await predictorOf(request, contextSize);
        sequences.set(key, await sequenceOf(request.model, contextSize, predictor));
    }
    const sequence = sequences.get(key);
    await sequence.clearHistory();
    await sequence.tokenPredictor?.draftSequence?.clearHistory();
    sequence.tokenPredictor?.updateInputTokens?.(request.prompt);
    return sequence;
}

// Milliseconds that llama.cpp counted within the target since it was asked last.
async function ownMilliseconds(sequence) {
    printed.length = 0;
    await sequence.context.printTimings();
    const found = [...printed.join("\n").matchAll(/eval time =\s*([\d.]+) ms/g)];
    return found.length ? found.reduce((sum, one) => sum + Number(one[1]), 0) : null;
}

async function decoded(request) {
    const sequence = await prepared(request);
    const before = sequence.tokenPredictions.used;
    const {temperature, top_k: topK, top_p: topP, seed, ends} = request;
    const options = {temperature, topK, topP, seed, yieldEogToken: true};
    const tokens = [];
    await ownMilliseconds(sequence);
    let mark = performance.now(), prefill = 0;
    for await (const token of sequence.evaluate(request.prompt, options)) {
        tokens.push(token);
        if (tokens.length === 1) {
            prefill = performance.now() - mark;
            await ownMilliseconds(sequence);
            mark = performance.now();
        }
        if (tokens.length === request.max_new_tokens || ends.includes(token))
            break;
    }
    const decode = performance.now() - mark;
    const own = await ownMilliseconds(sequence);
    return {
        tokens, prefill_s: prefill / 1e3, decode_s: decode / 1e3,
        forward_s: own === null ? null : own / 1e3,
        num_accepted: sequence.tokenPredictions.used - before
    };
}

say({ready: true, version: llama.llamaCppRelease.release, build: llama.buildType});
for await (const line of createInterface({input: process.stdin})) {
    try {
        say(await decoded(JSON.parse(line)));
    } catch (error) {
        say({error: error.message});
    }
}
await llama.dispose();
