// The buttons below answers that have just come.

import { resultForm } from "./calls.js";
import { copyButton } from "./copy.js";
import { quiet } from "./dom.js";

/** Offer what can be done with them; `acts`, in a chat, are `again()`, `edit()`, `tell(results)`
 * and `goOnWith(lane)`. */
export function offer(lanes, acts) {
  const answered = lanes.filter((lane) => lane.hasAnswer);
  for (const lane of answered) {
    if (lane.answer) lane.tools.append(copyButton(() => lane.answer));
    if (acts) lane.tools.append(...inChat(lane, answered.length > 1, acts));
  }
}

function inChat(lane, isOneOfTwo, acts) {
  const again = quiet("Regenerate", acts.again);
  if (isOneOfTwo) return [again, quiet("Go on with this answer", () => acts.goOnWith(lane))];
  const { tool_calls: calls } = lane.message;
  return [again, calls ? resultForm(calls, acts.tell) : quiet("Edit", acts.edit)];
}
