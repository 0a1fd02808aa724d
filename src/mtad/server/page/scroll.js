// Boxes that scroll: one that shows where it goes on, and one that keeps its end in sight.

import { el } from "./dom.js";

/** The box with a line below it; both show at which sides there is more to see. */
export function withScrollCue(box, what) {
  const line = el("p", { class: "hint cue", text: `${what} goes on: scroll it sideways.` });
  const show = () => {
    const sides = sidesWithMore(box);
    box.dataset.more = sides.join(" ");
    line.hidden = box.scrollWidth <= box.clientWidth + 1;
  };
  box.addEventListener("scroll", show, { passive: true });
  new ResizeObserver(show).observe(box);
  new MutationObserver(show).observe(box, { childList: true });
  show();
  return [box, line];
}

function sidesWithMore(box) {
  const { scrollLeft: x, scrollTop: y, scrollWidth, scrollHeight, clientWidth, clientHeight } = box;
  const rest = { left: x, right: scrollWidth - clientWidth - x };
  Object.assign(rest, { top: y, bottom: scrollHeight - clientHeight - y });
  return Object.keys(rest).filter((side) => rest[side] > 1);
}

/** Keeps the end of a box in sight, unless a person has scrolled up. */
export class Follower {
  constructor(box) {
    this.box = box;
    this.bottom = 0;
  }

  /** Follow from now on. */
  restart() {
    this.bottom = 0;
  }

  /** Go to the end, and follow from there. */
  toEnd() {
    this.restart();
    this.box.scrollTop = this.box.scrollHeight;
  }

  /** The box has new content. */
  keepUp() {
    const bottom = this.box.scrollHeight - this.box.clientHeight;
    if (this.box.scrollTop >= this.bottom - 8) this.box.scrollTop = bottom;
    this.bottom = bottom;
  }
}
