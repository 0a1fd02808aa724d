// What the record of one iteration says, worked out; no element is made here.

/** The name of a token's origin, for people. */
export const ORIGINS = {
  draft: "accepted draft",
  endpoint: "endpoint, by the target",
  target: "made by the target",
};

/** How every tree node fared, by its index. */
export function fates(record) {
  // a block cut at its end (budget, EOS, stop string) says nothing about what lay beyond the cut
  const isCut = record.finish_reason && record.tokens.every((token) => token.node);
  const end = isCut ? (lastAccepted(record)?.index ?? 0) : null;
  const accepted = record.nodes.filter((node) => node.accepted);
  const taken = new Set(accepted.map((node) => `${node.parent} ${node.token}`));
  const fateOf = new Map([[0, "accepted"]]);
  for (const node of record.nodes) {
    fateOf.set(node.index, fate(node, fateOf.get(node.parent), end, taken));
  }
  return fateOf;
}

function fate(node, above, end, taken) {
  if (node.accepted) return "accepted";
  if (node.proposed === false) return "not proposed";
  if (node.parent === end) return "cut off";
  // some drafts draw the same token twice below a node: its text was accepted, so not rejected
  if (taken.has(`${node.parent} ${node.token}`)) return "repeated";
  return above === "accepted" ? "rejected" : above;
}

/** The nodes that exist, by the index of their parent. */
export function childrenOf(record) {
  const children = new Map();
  for (const node of record.nodes) {
    if (node.alive === false) continue;
    if (!children.has(node.parent)) children.set(node.parent, []);
    children.get(node.parent).push(node);
  }
  return children;
}

/** The deepest accepted node, null where none is. */
export function lastAccepted(record) {
  const accepted = record.nodes.filter((node) => node.accepted);
  return accepted.toSorted((a, b) => a.depth - b.depth).at(-1) ?? null;
}

/** Texts that were proposed and rejected, by their place: the accepted tokens before them. */
export function rejectedBranches(record, most = 4) {
  const [children, fateOf] = [childrenOf(record), fates(record)];
  const branches = new Map();
  const anchors = [{ index: 0, depth: 0 }, ...record.nodes.filter((node) => node.accepted)];
  for (const anchor of anchors) {
    const below = children.get(anchor.index) ?? [];
    const heads = below.filter((node) => fateOf.get(node.index) === "rejected");
    const texts = new Set(heads.flatMap((head) => endings(head, children)));
    if (texts.size) branches.set(anchor.depth, cut([...texts], most));
  }
  return branches;
}

function endings(node, children) {
  const below = (children.get(node.index) ?? []).filter((child) => child.proposed !== false);
  if (!below.length) return [node.text];
  return below.flatMap((child) => endings(child, children).map((text) => node.text + text));
}

const cut = (texts, most) =>
  texts.length <= most ? texts : [...texts.slice(0, most), `… and ${texts.length - most} more`];

/** Counts that grow with every iteration. */
export class Tally {
  constructor() {
    Object.assign(this, { steps: 0, tokens: 0, accepted: 0, drafted: 0, reached: [] });
  }

  /** Add an iteration. */
  add(record) {
    this.steps += 1;
    this.tokens += record.tokens.length;
    this.accepted += record.num_accepted;
    this.drafted += record.num_drafted;
    const depth = Math.max(0, ...record.nodes.filter((n) => n.alive !== false).map((n) => n.depth));
    while (this.reached.length < depth) this.reached.push(0);
    for (let j = 0; j < record.num_accepted; j += 1) this.reached[j] = (this.reached[j] ?? 0) + 1;
  }

  /** 1 + accepted / iterations; null before the first. */
  get meanLength() {
    return this.steps ? 1 + this.accepted / this.steps : null;
  }

  /** The share of iterations that accept at least j + 1 drafts, for every j. */
  get shares() {
    return this.reached.map((count) => count / this.steps);
  }
}
