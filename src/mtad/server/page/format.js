// Numbers and tokens as people read them.

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A share of one as a percentage of at most three digits. */
export function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.01) return "<0.01 %";
  if (value >= 99.95 && value < 100) return ">99.9 %";
  const digits = value === 100 || value === 0 ? 0 : value >= 10 ? 1 : 2;
  return `${value.toFixed(digits)} %`;
}

/** The probability of a log-probability; null is impossible or unknown. */
export const chance = (logprob) => (known(logprob) ? percent(Math.exp(logprob)) : "–");

/** The ratio of a log-ratio, in three digits. */
export function ratio(log) {
  if (!known(log)) return "–";
  const value = Math.exp(log);
  return value >= 1e4 || value < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3));
}

/** Seconds with their unit. */
export const seconds = (s) => (s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(2)} s`);

/** A token's text with its spaces and line ends made visible. */
export function visible(text) {
  if (text === "") return "∅";
  return text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

/** At most `length` characters. */
export function shorten(text, length) {
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}
