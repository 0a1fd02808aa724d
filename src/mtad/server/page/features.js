// What this server's chats can be asked for beside a text, as its own description has it.

import { getJson } from "./api.js";

/** Whether a chat may be given a JSON schema, tools, a choice of them, and thoughts of before. */
export async function readFeatures(key) {
  let schemas = {};
  try {
    schemas = (await getJson("openapi.json", key)).components?.schemas ?? {};
  } catch {
    // a server without a description: what it does not say is not offered
  }
  const fields = schemas.ChatRequest?.properties ?? {};
  const kinds = kindsIn(fields.response_format, schemas);
  return {
    schema: kinds.some(isSchema),
    tools: kindsIn(fields.tools, schemas).some(isFilled),
    choice: kindsIn(fields.tool_choice, schemas).some(isRequirable),
    thoughts: "reasoning_content" in (schemas.AssistantMessage?.properties ?? {}),
  };
}

const isSchema = ({ properties }) => {
  const { const: only, enum: some = [] } = properties?.type ?? {};
  return [only, ...some].includes("json_schema");
};
const isRequirable = ({ const: only, enum: some = [] }) => [only, ...some].includes("required");
const isFilled = ({ type, maxItems }) => type === "array" && maxItems !== 0;

/** The kinds of value that a field may have: its alternatives, with what they refer to. */
function kindsIn(field, schemas) {
  if (!field) return [];
  const inner = [...(field.anyOf ?? []), ...(field.oneOf ?? [])];
  if (field.$ref) inner.push(schemas[field.$ref.split("/").at(-1)]);
  return [field, ...inner.flatMap((one) => kindsIn(one, schemas))];
}
