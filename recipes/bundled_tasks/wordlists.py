"""Invented names and things for the texts of the bundled sets; no real person or firm is meant."""

FIRST = (
    "Ada Bruno Carla Deniz Elif Farid Greta Hugo Irene Jonas Karin Leon Mira Nadia Oskar Paula "
    "Quentin Rosa Stefan Talia Ugo Vera Wanda Xenia Yusuf Zora Amir Bella Cyril Dora Emil Fiona"
).split()
LAST = (
    "Abbot Barros Castell Dunmore Eklund Farrow Gruber Hartley Ibarra Jansen Kowal Lindt Moreau "
    "Novak Okafor Petrov Quist Rahman Salter Tanaka Ulrich Varga Weller Yilmaz Zeller Brandt "
    "Costa Drake Ferris Holm Keller Marsh"
).split()
CITIES = (
    "Lisbon Porto Ghent Basel Turin Leeds Cork Malmo Bergen Tampere Gdansk Brno Graz Split Patras "
    "Izmir Haifa Tunis Dakar Accra Nairobi Durban Pune Hanoi Osaka Perth Dunedin Quito Cusco "
    "Bogota Merida Austin Boise Tulsa Fargo Halifax"
).split()
GOODS = (
    "glass jars;desk lamps;wool blankets;paper bags;garden chairs;steel bolts;tea cups;picture "
    "frames;bicycle tyres;candle holders;kitchen knives;notebooks;umbrellas;travel mugs;door "
    "handles;flower pots;cotton towels;wall clocks;board games;rain coats"
).split(";")
FIRMS = (
    "Bluefield Tools;Harbor Print;Maple Freight;Norden Optics;Quarry Foods;Redwood Dental;"
    "Silverline Travel;Tidewater Energy;Umber Design;Vantage Textiles;Willow Software;"
    "Zenith Motors;Pinecrest Labs;Ironbridge Media;Larkspur Bakery;Cobalt Shipping"
).split(";")
JOBS = (
    "accountant;sales manager;nurse;electrician;data analyst;chef;librarian;project engineer;"
    "translator;warehouse clerk;graphic designer;biology teacher;bus driver;web developer"
).split(";")
EVENTS = (
    "Spring Book Fair;Harvest Supper;Open Chess Day;City Choir Concert;Robot Workshop;Charity "
    "Run;Pottery Evening;Jazz Night;Science Slam;Film Marathon;Garden Tour;Poetry Reading;"
    "Coding Camp;Antique Market;Photo Walk;Family Picnic"
).split(";")
VENUES = (
    "Town Hall;Old Library;Riverside Park;Market Square;North Gym;Museum Garden;Harbour House;"
    "Grand Theatre;Community Centre;Botanic Hall;Railway Arch;Castle Yard"
).split(";")
HOMES = "flat house studio cottage loft bungalow".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
COLOURS = "red blue green black white grey brown yellow silver orange".split()
