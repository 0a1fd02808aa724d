// What this tab remembers until it is closed, also over a reload.

/** A text by its name; empty where there is none. */
export function remembered(name) {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return ""; // storage is switched off
  }
}

/** Keep a text; where storage is switched off, nothing is kept. */
export function remember(name, text) {
  try {
    sessionStorage.setItem(name, text);
  } catch {
    // the page has it as long as it is there
  }
}
