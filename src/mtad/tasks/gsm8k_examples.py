"""Eight solved problems for GSM8K's prompt, written for this project.

Their form is that of chain-of-thought prompting (Wei et al., 2022, arXiv 2201.11903): a question,
the steps of its solution, and "The answer is N." The questions are not theirs.
"""

from __future__ import annotations

from typing import Final

EXAMPLES: Final = (
    (
        "A bakery fills 6 trays with 24 rolls each and sells 95 rolls before noon. How many rolls "
        "are left?",
        "The trays hold 6 * 24 = 144 rolls. After the sale 144 - 95 = 49 rolls are left. "
        "The answer is 49.",
    ),
    (
        "Nora reads 18 pages every evening. Her book has 270 pages, and she has been reading it "
        "for 9 evenings. How many more evenings does she need?",
        "In 9 evenings she read 9 * 18 = 162 pages. The 270 - 162 = 108 pages that are left take "
        "108 / 18 = 6 evenings. The answer is 6.",
    ),
    (
        "A train ticket costs $35, and a bus ticket costs $12 less. How many dollars do 3 train "
        "tickets and 2 bus tickets cost together?",
        "A bus ticket costs 35 - 12 = 23 dollars. The train tickets cost 3 * 35 = 105 dollars and "
        "the bus tickets 2 * 23 = 46 dollars, which makes 105 + 46 = 151 dollars. "
        "The answer is 151.",
    ),
    (
        "A tank for 500 liters is 40% full. A pump adds 25 liters every minute. After how many "
        "minutes is the tank full?",
        "There are 500 * 40 / 100 = 200 liters in the tank, so 500 - 200 = 300 liters are missing. "
        "The pump needs 300 / 25 = 12 minutes for them. The answer is 12.",
    ),
    (
        "Ines is 4 years older than Paul, who is twice as old as Mia. Mia is 7. How old are the "
        "three together?",
        "Paul is 2 * 7 = 14 and Ines is 14 + 4 = 18. Together they are 7 + 14 + 18 = 39. "
        "The answer is 39.",
    ),
    (
        "A gardener has 90 bulbs. He plants a third of them on Monday and half of the others on "
        "Tuesday. How many bulbs has he planted by then?",
        "On Monday he plants 90 / 3 = 30 bulbs, and 90 - 30 = 60 are left. On Tuesday he plants "
        "60 / 2 = 30 bulbs. Together he has planted 30 + 30 = 60 bulbs. The answer is 60.",
    ),
    (
        "Pens are sold in packs of 5 for $4. A school needs 1,150 pens. How many dollars does it "
        "pay?",
        "The school needs 1150 / 5 = 230 packs. They cost 230 * 4 = 920 dollars. "
        "The answer is 920.",
    ),
    (
        "Two hikers start 56 kilometers apart and walk towards each other, one at 3 and the other "
        "at 4 kilometers an hour. After how many hours do they meet?",
        "Every hour they come 3 + 4 = 7 kilometers closer. So they meet after 56 / 7 = 8 hours. "
        "The answer is 8.",
    ),
)
"""Questions and their solutions."""
