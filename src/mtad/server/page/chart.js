// Acceptance by position as a small bar chart.

import { el, svg } from "./dom.js";
import { percent } from "./format.js";

const BAR = { width: 22, gap: 6, height: 44, label: 14 };

/** The chart of `shares`: how many iterations accept at least so many drafts. */
export function drawShares(shares) {
  if (!shares.length) return el("p", { class: "hint", text: "nothing drafted" });
  const said = shares.map((share, j) => `position ${j + 1}: ${percent(share)}`);
  const [width, height] = [shares.length * (BAR.width + BAR.gap), BAR.height + BAR.label];
  const box = { viewBox: `0 0 ${width} ${height}`, width, height };
  const label = `Acceptance by position. ${said.join(", ")}`;
  const bars = shares.map((share, j) => bar(share, j, said[j]));
  return svg("svg", { ...box, class: "chart", role: "img", "aria-label": label }, ...bars);
}

function bar(share, j, said) {
  const x = j * (BAR.width + BAR.gap);
  const { width, height } = BAR;
  const full = Math.max(1, share * height);
  const place = { x: x + width / 2, y: height + 11, "text-anchor": "middle" };
  return svg(
    "g",
    {},
    svg("title", { text: said }),
    svg("rect", { class: "track", x, y: 0, width, height }),
    svg("rect", { class: "share", x, y: height - full, width, height: full }),
    svg("text", { ...place, text: String(j + 1) }),
  );
}
