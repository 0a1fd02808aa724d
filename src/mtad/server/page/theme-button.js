// The button that goes round: the system's theme, light, dark.

import { el } from "./dom.js";

const ORDER = ["system", "light", "dark"];
const root = document.documentElement;

/** Make the button change the theme, and remember it. */
export function addThemeButton(button) {
  const show = (theme) => {
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    button.setAttribute("aria-label", `Theme: ${theme}`);
    button.replaceChildren(el("span", { class: "roomy", text: "Theme: " }), theme);
  };
  show(root.dataset.theme ?? "system");
  button.addEventListener("click", () => {
    const now = root.dataset.theme ?? "system";
    const next = ORDER[(ORDER.indexOf(now) + 1) % ORDER.length];
    show(next);
    try {
      localStorage.setItem("mtad-theme", next);
    } catch {
      // storage is switched off: the theme lasts as long as the page
    }
  });
}
