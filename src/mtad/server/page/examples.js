// Prompts of the embedded pair's test sets, one for each thing that it knows, and one that it does
// not: in the last, every word is new to both models.

import { byId, quiet } from "./dom.js";

export const EXAMPLES = [
  {
    name: "SQL",
    text:
      "CREATE TABLE clients (client_id INT, name TEXT, theme TEXT, level TEXT, cost INT);\n" +
      "CREATE TABLE harbors (harbor_id INT, theme TEXT, title TEXT, brand TEXT, " +
      "year INT, client_id INT);\n" +
      "-- List the total cost of the clients with the name 'Ian'.\n" +
      "SQL:",
  },
  {
    name: "Python",
    text:
      "def compute_token(values):\n" +
      '    """Add up the even numbers in values with a loop.\n' +
      "    >>> compute_token([-4, 18, 9, 6, 2, -1])\n" +
      "    22\n" +
      '    """\n',
  },
  {
    name: "Chat",
    chat: true,
    text: "Quick question. The farmer looks near the garden. Say it in the past tense.",
  },
  {
    name: "Unseen words",
    text:
      "CREATE TABLE wizards (wizard_id INT, habitat TEXT, nickname TEXT, motto TEXT, " +
      "ranking INT);\n" +
      "CREATE TABLE violins (violin_id INT, nickname TEXT, emblem TEXT, fabric TEXT, " +
      "torque INT, wizard_id INT);\n" +
      "-- Print the habitat and the ranking of the wizards with a ranking of 50 or more.\n" +
      "SQL:",
  },
];

/** Show a button for each; `use` gets the one that was chosen. */
export function addExamples(use) {
  byId("examples").replaceChildren(...EXAMPLES.map((one) => quiet(one.name, () => use(one))));
}
