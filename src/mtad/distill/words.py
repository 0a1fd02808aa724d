"""The words that the bundled prompts are made of."""

from __future__ import annotations

TOPICS = (
    "photosynthesis; the water cycle; black holes; compound interest; vaccines; plate tectonics; "
    "the immune system; machine learning; the French Revolution; inflation; solar panels; "
    "DNA replication; the stock market; ocean currents; earthquakes; batteries; the printing press; "
    "sleep; coral reefs; blockchain; the Silk Road; antibiotics; gravity; the greenhouse effect; "
    "supply and demand; honey bees; the Roman Empire; electric cars; probability; the human heart; "
    "volcanoes; democracy; recycling; the internet; nutrition; the theory of evolution; jazz music; "
    "public speaking; time zones; chess; fermentation; the moon landing; glaciers; databases; "
    "operating systems; the periodic table; Renaissance art; wind energy; habits; negotiation; "
    "meditation; stoicism; the Great Wall of China; wolves; rainforests; the water supply of a city; "
    "sound waves; lasers; the Olympic Games; credit scores; bread baking; container shipping; "
    "mushrooms; the nervous system; rivers; tides; the metric system; satellites; quantum computing; "
    "the Industrial Revolution; typography; magnetism; allergies; urban planning; comets; "
    "cryptography; the microscope; forest fires; migration of birds; tea; opera; insurance; "
    "the carbon cycle; dinosaurs; renewable energy; team work; first aid; gardening; poetry; "
    "time management; the brain; steel; weather forecasts; maps; robots; cheese; deserts; "
    "friendship; budgeting; the circulatory system; logic; elephants; ethics in medicine"
).split("; ")

AUDIENCES = (
    "a child of eight; a new colleague; a university student; my grandmother; a busy manager; "
    "someone who has never heard of it; a curious teenager; a group of tourists"
).split("; ")

CHARACTERS = (
    "a lighthouse keeper; a young inventor; a retired detective; two rival bakers; a lost robot; "
    "a shy violinist; a dragon who is afraid of fire; a space botanist; a stray dog; a night nurse; "
    "a clockmaker; an old fisherman; a girl who can talk to trees; a tired astronaut; a librarian; "
    "a talking cat; a mountain guide; a street painter; a king without a crown; a bee"
).split("; ")

PLACES = (
    "a small village by the sea; a crowded train station; a city under the ice; an abandoned theatre; "
    "a desert market; a school on Mars; a quiet library; a forest at night; a floating island; "
    "the top of a skyscraper; a rainy harbour; a mountain hut; an old castle; a busy kitchen"
).split("; ")

MOODS = "tired; nervous; excited; bored; proud; homesick; stressed; lonely; curious; angry".split(
    "; "
)

ROLES = (
    "my landlord; my boss; a customer; a hotel; my neighbour; a professor; a recruiter; the city "
    "council; an airline; a supplier; my team; an old friend; a doctor's office; a bank"
).split("; ")

MATTERS = (
    "a broken heating; a day off next week; a late delivery; a change of a reservation; the noise at "
    "night; an extension of a deadline; an interview; a new bicycle lane; a lost suitcase; a wrong "
    "invoice; the plan for the next quarter; a visit in the summer; an appointment; a closed account"
).split("; ")

PRODUCTS = (
    "a folding bicycle; noise-cancelling headphones; a ceramic teapot; a solar lantern; hiking boots; "
    "a smart thermostat; a wooden chess set; a travel pillow; an electric kettle; a rain jacket; "
    "a standing desk; a cast-iron pan; a language app; a robot vacuum cleaner; organic coffee"
).split("; ")

GOALS = (
    "learn to play the guitar; run a marathon; save money on groceries; sleep better; write a novel; "
    "learn Spanish; plan a wedding; find a job as a designer; grow tomatoes on a balcony; read more "
    "books; prepare for an exam in history; move to another city; start a podcast; eat less sugar; "
    "organise my desk; train a puppy; build a small website; learn to swim; host a dinner for ten"
).split("; ")

FUNCTIONS = (
    "reverses a string; checks whether a number is prime; counts the vowels in a sentence; merges two "
    "sorted lists; finds the largest number in a list; removes duplicates from a list; converts "
    "Celsius to Fahrenheit; computes the factorial of n; returns the n-th Fibonacci number; checks "
    "whether two words are anagrams; sums the digits of a number; reads a CSV file and prints the "
    "mean of a column; flattens a nested list; counts how often each word occurs in a text; sorts a "
    "list of dictionaries by a key; validates an email address; finds the common elements of two "
    "lists; rotates a list by k places; computes the greatest common divisor; binary searches a list; "
    "groups words by their first letter; capitalises every word; multiplies two matrices; draws a "
    "triangle of stars; implements a stack; removes punctuation from a text; finds the longest word"
).split("; ")

LANGUAGES = "Python; JavaScript; Java; C; SQL; Bash; Rust; Go".split("; ")

QUERIES = (
    "all customers from Berlin; the five most expensive products; the number of orders per month; "
    "the average salary per department; employees hired after 2015; books without an author; the "
    "total revenue per country; students with more than three courses; the second highest score"
).split("; ")

NAMES = (
    "Amina; Ben; Chloe; David; Elif; Farid; Grace; Hiro; Ines; Jonas; Karim; Lena; Marta; Noah; "
    "Olga; Pedro; Ruth; Sam; Tara; Yusuf"
).split("; ")

GOODS = (
    "apples; pencils; stickers; marbles; books; tickets; eggs; cookies; stamps; bottles; chairs; "
    "postcards; flowers; batteries; oranges; cards"
).split("; ")

SENTENCES = (
    "The meeting was moved to Thursday because the train was late.; I would like two tickets for the "
    "evening show.; She opened the window and listened to the rain.; The museum is closed on Mondays.; "
    "Our company will open a new office in the spring.; He forgot his keys in the kitchen again.; "
    "Please send me the report before noon.; The children built a bridge of stones across the stream.; "
    "The price of coffee has risen by ten percent.; We walked along the river until it was dark.; "
    "Doctors recommend at least seven hours of sleep.; The bakery around the corner sells the best "
    "bread in town.; There is no signal in the mountains.; The concert begins at eight o'clock.; My "
    "brother works as an engineer in a small factory.; The government announced new rules for "
    "electric scooters on Tuesday.; It was the coldest winter for thirty years.; The team won its "
    "third game in a row."
).split("; ")

FOREIGN = (
    "Der Zug hatte wegen des Schnees eine Stunde Verspätung.; Die Bürgermeisterin eröffnete gestern "
    "die neue Bibliothek.; Wir suchen eine Wohnung in der Nähe des Parks.; Das Konzert wurde wegen "
    "des Regens abgesagt.; Viele Menschen fahren jeden Tag mit dem Fahrrad zur Arbeit.; Die Preise "
    "sind im letzten Jahr stark gestiegen.; Le musée est fermé le lundi et le mardi.; Elle a oublié "
    "son parapluie dans le bus.; Les enfants jouent dans le jardin après l'école.; Nous avons réservé "
    "une table pour quatre personnes.; Le gouvernement a annoncé une nouvelle loi sur le climat.; El "
    "tren sale a las ocho de la mañana.; Mi hermana trabaja en un hospital grande.; La reunión fue "
    "cancelada por falta de tiempo.; Me gusta leer novelas antes de dormir.; Il mercato è aperto ogni "
    "sabato mattina.; Die Forscher haben eine neue Art von Käfern entdeckt.; Der Trainer war mit dem "
    "Ergebnis nicht zufrieden.; Im Sommer ist der See voller Boote.; Die Firma plant, im Herbst "
    "hundert neue Stellen zu schaffen."
).split("; ")

TONGUES = "German; French; Spanish; Italian; Portuguese; Dutch".split("; ")

EVENTS = (
    "the invention of the telephone; the first flight across the Atlantic; the fall of the Berlin "
    "Wall; the discovery of penicillin; the opening of the Suez Canal; the first printed book; the "
    "eruption of Vesuvius; the signing of Magna Carta; the first heart transplant; the building of "
    "the Eiffel Tower; the voyage of Magellan; the first World Cup; the discovery of Neptune"
).split("; ")
