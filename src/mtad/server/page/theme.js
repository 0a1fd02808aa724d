// Before the first paint: the theme that was chosen here, else the system's.
"use strict";
(() => {
  try {
    const chosen = localStorage.getItem("mtad-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // storage is switched off: the system's theme it is
  }
})();
