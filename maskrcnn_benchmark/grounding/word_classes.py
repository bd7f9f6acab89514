# ruff: noqa: SIM905 - long word lists read better as plain text
"""Small English word lists for finding noun phrases without a trained tagger.

Closed classes (words that never head a noun phrase) are listed in full; verbs and adjectives are
those common in image captions. Everything that no list and no ending claims is taken for a noun.
"""

DETERMINERS = frozenset(
    "a an the this that these those some any each every another no either neither".split()
)

POSSESSIVES = frozenset("my your his her its our their whose 's".split())

PREPOSITIONS = frozenset(
    """
    about above across after against along alongside amid among amongst around as aside at atop away
    before behind below beneath beside besides between beyond by despite down during except for from
    in inside into like near nearby of off on onto opposite out outside over past per since through
    throughout toward towards under underneath until unto up upon via with within without
    """.split()
)

FUNCTION_WORDS = PREPOSITIONS | frozenset(
    """
        i me you he him she it we us they them myself yourself himself herself itself ourselves
        themselves mine yours hers ours theirs who whom which what where when why how there here and
        or but nor so yet if while because although though unless whether than then not n't to be am
        is are was were been being have has had having do does did doing done will would shall
        should can could may might must very too also just only even still again already always
        never often once twice maybe perhaps apart together forward backward backwards forwards
        upside downstairs upstairs indoors outdoors overhead ahead back else instead now today soon
        later quite rather almost both all such much many more most few several lots other others
        own same next onward onwards upward upwards downward downwards sideways aboard
        """.split()
)

NUMBERS = frozenset(
    """
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty hundred thousand million dozen first
    second third
    """.split()
)

ADJECTIVES = frozenset(
    """
    red orange yellow green blue purple pink brown black white gray grey beige tan gold golden
    silver maroon teal turquoise navy violet crimson colorful colourful multicolored plaid striped
    dark light bright pale clear shiny big small large little tiny huge giant long short tall high
    low wide narrow thick thin deep shallow heavy fat skinny young old older elderly middle-aged new
    ancient modern hot cold warm cool wet dry dirty clean empty full open closed busy crowded happy
    sad angry beautiful pretty handsome cute ugly nice good bad great best better worst strong weak
    fast slow quick loud quiet hard soft rough smooth sharp flat round square rectangular curly
    straight bald blond blonde bare barefoot naked nude male female asian african american caucasian
    chinese japanese indian european mexican french german italian british english hispanic middle
    left right top bottom front upper lower inner outer main different various similar certain
    single double public private local traditional formal casual fancy plain professional plastic
    wooden wood-paneled metallic woolen leather-bound sandy rocky grassy snowy icy muddy sunny
    cloudy rainy foggy stormy dusty leafy hairy furry fluffy sleeveless shirtless topless outdoor
    indoor urban rural residential electric electrical musical medical military religious ethnic
    adult teenage leafless ripe fresh raw cooked broken lush intent asleep alone alive visible
    unique interesting special serious
    """.split()
)

_VERBS = """
    accept add adjust aim allow appear applaud approach argue arrange arrive ask assist attach
    attempt attend balance bake bathe beat become begin bend bite blow board bounce bow break bring
    browse brush build burn bury buy call camp carry carve catch celebrate change chase chat check
    cheer chew chop clap clean climb close collect come communicate compete concentrate connect
    consist contain continue cook cool cover crawl cross crouch cry cut dance decide decorate
    deliver demonstrate descend dig dine direct discuss display dive drag draw dress dribble drink
    drive drop dry eat embrace emerge enjoy enter examine exercise exit explain express extend face
    fall feature feed feel fight fill film fish fix flip float fly focus follow frown gather gaze
    get gesture give glance go grab graze greet grill grin grind grip grow guard guide hand hang
    happen hide hike hit hold hop hug hunt hurdle include inspect interact iron jog join juggle jump
    keep kick kiss kneel knit know laugh launch lay lead lean leap learn leave lick lie lift light
    line listen load look lounge lower make maneuver march mark measure meet mix mop move mow
    navigate need nap observe offer operate overlook pack paddle paint park participate pass pat
    pause pay pedal peer perform perch pet pick picnic place plant play point polish pose pour
    practice pray prepare present press pretend protect protest pull punch push put race raise reach
    read ready receive recline reflect relax remain remove repair rest return ride rise roast roll
    rope row run sail scale score scrub search say scan sculpt see seem sell serve set sew shake
    share shave shine shoot shop shout shovel show sing sip sit skate skateboard ski skip slam sleep
    slice slide smell smile smoke snowboard socialize speak spin splash spray spread sprint squat
    stack stand stare start steer step stick stir stop stretch stroll strum study support surf
    surround swap sweep swim swing tackle take talk taste teach tell think throw tie touch tow train
    travel try tumble turn type use visit wade wait wake walk want wash watch water wave wear weld
    wheel whisper win wind wipe work wrap wrestle write yell zoom
    """.split()

BASE_VERBS = frozenset(_VERBS)

_IRREGULAR_FORMS = frozenset(
    """
    ate beaten became began begun bent bit bitten blew blown bought broke brought built came caught
    chose crept cut drank drawn drew drove driven dug fed fell felt flew flown fought found gave
    given gone got gotten grew grown held hid hidden hung kept knelt knew known laid lain lay leapt
    led left lit lying made met paid ran read rode ridden rose sang sat saw seen sent shook shaken
    shot shown slept slid spoke spun spread stood stuck struck sung swam swept swung taken taught
    thrown tied told took tore torn tying went woke won wore worn wound wrote written
    """.split()
)

ING_NOUNS = frozenset(
    """
    awning bedding building carving ceiling clothing covering crossing dressing drawing earring
    engraving evening everything anything nothing something fencing filling flooring footing
    frosting icing king landing lettering lightning lining marking morning netting opening outing
    painting parking paving piping plumbing pudding railing ring roofing rigging scaffolding seating
    setting shelving sibling siding sling spring stocking stuffing string swing thing topping towing
    tubing wedding wing wiring wrapping writing viewing
    """.split()
)

ED_NOUNS = frozenset(
    "bed bobsled breed deed feed flatbed moped newlywed reed seed shed sled speed steed weed".split()
)

LY_NOUNS = frozenset(
    "ally assembly belly bully butterfly dolly dragonfly family firefly fly italy jelly lily rally supply trolly".split()
)

NOUN_OR_ADJECTIVE = frozenset(
    "light orange plastic square adult male female gold silver cold round public professional".split()
)

IRREGULAR_PLURALS = frozenset(
    "people men women children kids feet teeth police geese mice sheep".split()
)

ADJECTIVE_ENDINGS = ("ous", "ful", "ish", "able", "ible", "less", "ive", "ical")


def _inflections(verb: str) -> set[str]:
    if verb.endswith("e"):
        stem = verb[:-1]
        return {verb, verb + "s", stem + "ing", stem + "ed"}
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return {verb, verb[:-1] + "ies", verb + "ing", verb[:-1] + "ied"}
    plural = "es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s"
    doubled = verb + verb[-1]
    return {verb, verb + plural, verb + "ing", verb + "ed", doubled + "ing", doubled + "ed"}


VERB_FORMS = frozenset().union(_IRREGULAR_FORMS, *(_inflections(verb) for verb in _VERBS))
