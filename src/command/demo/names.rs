//! Names, places and words of the people of `kith demo`.

/// First names. The first two are those that the documents use.
pub(super) const FIRST: [&str; 50] = [
    "Ann", "Bob", "Chen", "Dalia", "Emeka", "Fatima", "Goran", "Hana", "Ivo", "Jaya", "Kofi", "Lena", "Mateo", "Nadia",
    "Oskar", "Priya", "Quentin", "Rosa", "Samir", "Tomoko", "Ulla", "Viktor", "Wanjiru", "Ximena", "Yusuf", "Zofia",
    "Aiko", "Bruno", "Carla", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kamila", "Leila", "Marek",
    "Noor", "Olga", "Pedro", "Ruth", "Sanna", "Tariq", "Uma", "Vera", "Wei", "Yara", "Zoltan",
];

/// Last names.
pub(super) const LAST: [&str; 40] = [
    "Abara",
    "Bauer",
    "Costa",
    "Dahl",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Haddad",
    "Ito",
    "Jansen",
    "Kaya",
    "Lopez",
    "Mensah",
    "Novak",
    "Okafor",
    "Petrov",
    "Quispe",
    "Rossi",
    "Silva",
    "Tanaka",
    "Usman",
    "Varga",
    "Weber",
    "Xu",
    "Yilmaz",
    "Zhang",
    "Andersson",
    "Banerjee",
    "Chowdhury",
    "Dubois",
    "Evans",
    "Ferrari",
    "Gupta",
    "Hoffmann",
    "Ibrahim",
    "Jung",
    "Kowalski",
    "Lindqvist",
    "Murphy",
    "Nguyen",
];

/// Where people live.
pub(super) const PLACES: [&str; 12] =
    ["Lisbon", "Nairobi", "Oslo", "Osaka", "Lima", "Accra", "Vienna", "Pune", "Montréal", "Ankara", "Gdańsk", "Cork"];

/// What people say of themselves.
pub(super) const BIOS: [&str; 8] = [
    "Plays the cello badly, and often.",
    "Bees, bread and bicycles.",
    "Builds small robots with large feet.",
    "Here for the hiking group.",
    "Collects maps of places that do not exist.",
    "Runs the Tuesday book club.",
    "Ask me about mushrooms.",
    "New in town. Happy to meet people.",
];

/// What people write with a request. Many write nothing.
pub(super) const MESSAGES: [&str; 8] = [
    "Hi! We met at the book club on Tuesday.",
    "You gave the talk about bees, right?",
    "We sat next to each other on the train to Gdańsk.",
    "Your sister said that I should write to you.",
    "I am looking for someone to play chess with.",
    "Are you coming to the picnic?",
    "We were at school together, I think!",
    "Hello from the hiking group.",
];

/// What people write when they accept. Most write nothing.
pub(super) const REPLIES: [&str; 4] =
    ["Of course I remember!", "Nice to hear from you.", "See you on Tuesday.", "Yes, gladly."];
