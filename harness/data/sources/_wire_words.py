"""The word lists of the embedded newswire, by topic and part of speech; plain data, written for this project.

Things and events can be counted, verbs take a thing as their object, and their past tense is also their participle,
so that one list serves every form that a template asks for.
"""

TOPICS = """
politics
actor minister senator mayor lawmaker governor chancellor deputy lobbyist voter candidate president cabinet parliament party
  coalition speaker aide premier committee councillor reformer delegate moderate
thing budget bill treaty reform amendment ballot mandate proposal law decree policy subsidy petition referendum manifesto
  statute charter seat district alliance majority quota inquiry portfolio constituency pledge motion clause tariff allowance
  pension register
verb approve reject debate amend block veto delay draft pass defend question repeal support oppose revise table ratify propose
  shelve adopt endorse abolish dispute simplify sign
adjective liberal conservative federal national regional electoral controversial bipartisan interim constitutional radical
  modest unpopular landmark partisan ceremonial
event election vote reshuffle recount scandal hearing summit resignation landslide deadlock campaign walkout

markets
actor investor broker trader analyst banker lender fund regulator economist treasurer auditor insurer creditor shareholder
  exchange forecaster speculator dealer actuary saver
thing bond share loan stock currency dividend deposit mortgage future portfolio index asset debt option yield stake surplus
  deficit reserve premium rate credit bill account forecast margin fee balance ledger benchmark
verb buy sell trade hedge raise cut price value downgrade upgrade issue track audit insure dump hold swap forecast guarantee
  restructure refinance repay borrow rate convert index withhold
adjective volatile bullish bearish fiscal monetary speculative undervalued overpriced sovereign liquid quarterly annual nervous
  cautious leveraged risky
event rally slump crash correction auction bailout downturn recession audit panic boom selloff

business
actor retailer startup manager founder supplier director executive chain brand manufacturer consultant wholesaler exporter
  importer distributor rival entrepreneur conglomerate boss franchise
thing merger factory contract office product warehouse store takeover patent logo outlet invoice order catalogue discount
  voucher showroom branch profit target venture division workshop label shipment trademark subsidiary licence deal
verb launch acquire close open expand rebrand relocate supply recall outsource rename restock franchise streamline double
  finalise negotiate secure reward market lease deliver package
adjective profitable ambitious lucrative corporate commercial wholesale bankrupt lean competitive retail overseas flagship
  struggling nimble independent
event merger buyout strike bankruptcy relaunch shortage boycott expansion turnaround restructuring

police
actor detective officer inspector sergeant constable patrol witness burglar thief suspect pickpocket smuggler forger sheriff
  investigator informant warden guard prankster locksmith
thing painting necklace safe bicycle passport fingerprint clue alibi briefcase statue diamond wallet van tunnel letter key
  footprint camera vault parcel coin licence jewel trophy violin document disguise confession code
verb recover seize trace inspect search photograph identify guard return examine smuggle forge impound conceal locate confiscate
  unlock swap retrieve film trail check reclaim
adjective stolen suspicious missing hidden anonymous undercover elusive masked clumsy careless observant forged counterfeit
  valuable retired
event robbery burglary theft chase stakeout arrest raid heist mystery tipoff blackout

courts
actor judge lawyer prosecutor juror magistrate clerk defendant plaintiff solicitor barrister notary tribunal court appellant
  trustee heir litigant mediator bailiff arbitrator
thing verdict appeal lawsuit sentence ruling claim injunction testimony will settlement fine charge plea precedent warrant
  affidavit contract deed objection hearing transcript brief estate licence complaint indictment trademark
verb uphold overturn dismiss hear contest settle review quash postpone reopen deliver grant deny file read consider cite reverse
  enforce adjourn waive consolidate
adjective guilty unanimous pending lengthy sealed civil criminal supreme lenient strict unlawful disputed binding unusual
  provisional
event trial appeal hearing mistrial settlement retrial acquittal adjournment lawsuit verdict

weather
actor forecaster meteorologist commuter farmer hiker skier gardener sailor motorist villager camper observer pilot surfer
  lifeguard climber walker swimmer
thing road roof school beach bridge harbour airport valley umbrella thermometer greenhouse river garden motorway gutter chimney
  lake flag slope lawn pier shelter sandbag shutter snowman gauge pond
verb close clear watch flood cover drench shelter repair soak reopen sweep protect leave reach cross measure salt secure
  evacuate shovel
adjective sunny foggy icy stormy mild windy humid rainy frosty scorching freezing gusty damp cloudless arctic tropical snowy
  muggy
event storm flood heatwave blizzard thunderstorm drought frost gale downpour snowfall thaw hailstorm tornado sandstorm cyclone

rescue
actor firefighter rescuer paramedic volunteer medic lifeboat helicopter survivor crew ranger diver miner mountaineer neighbour
  resident engineer dispatcher handler coastguard
thing blaze cave cliff tower ladder shaft raft siren hose boat cabin hydrant alarm tent blanket flare rope stretcher bunker dam
  depot beacon hangar winch cellar trench barn
verb reach search evacuate contain douse tackle secure rescue inspect save lower lift abandon clear rebuild enter patrol drain
  stabilise extinguish survey haul
adjective trapped stranded brave exhausted injured collapsed burning remote unconscious heroic frantic daring relieved dangerous
event fire landslide earthquake avalanche explosion collapse eruption shipwreck tremor sinkhole mudslide evacuation

health
actor doctor nurse surgeon patient hospital clinic dentist pharmacist midwife therapist dietitian carer physician epidemiologist
  optician pediatrician radiologist vaccinator donor toddler
thing vaccine ward pill treatment symptom scanner allergy virus kidney tablet bandage ambulance diet cure drug test remedy
  injection diagnosis prescription transplant wheelchair implant syringe antibody rash gene antibiotic
verb treat test prescribe diagnose monitor trial develop administer approve reduce prevent recommend ration stockpile dispense
  sterilise tolerate study combat detect
adjective infectious chronic healthy mild rare seasonal clinical severe herbal sleepy allergic surgical mental contagious
  elderly
event outbreak epidemic pandemic relapse checkup surgery infection shortage recovery lockdown

science
actor scientist physicist chemist biologist researcher professor laboratory geologist mathematician botanist team statistician
  zoologist neuroscientist institute academic technician ecologist
thing molecule theory experiment particle enzyme crystal laser equation microscope protein isotope hypothesis atom polymer
  magnet sample theorem catalyst dataset nerve mineral formula membrane neuron fibre sensor cell compound
verb discover measure observe prove isolate synthesise publish replicate refute confirm explain model simulate detect decode map
  analyse classify calibrate heat cool describe predict
adjective microscopic quantum molecular puzzling theoretical experimental genetic radioactive magnetic synthetic ancient
  fundamental robust elegant reproducible
event breakthrough discovery experiment conference eclipse reaction retraction controversy expedition survey

space
actor astronaut astronomer cosmonaut engineer observatory agency stargazer rover satellite probe telescope technician capsule
  navigator controller rocketeer planetarium
thing planet comet asteroid orbit galaxy moon star crater rocket antenna meteorite nebula station spacesuit shuttle module
  launchpad supernova engine parachute signal dock mirror ring dune constellation
verb orbit photograph launch explore spot track reach map test land dock approach repair detect study image circle fuel assemble
  visit scan name
adjective lunar solar distant icy orbital cosmic faint interstellar reusable weightless rocky gaseous dusty red luminous
event launch landing eclipse spacewalk flyby countdown docking splashdown explosion alignment

technology
actor programmer developer hacker engineer designer coder startup robot chatbot user inventor gamer tester browser blogger
  provider administrator platform vendor
thing app phone chip algorithm website password update gadget server drone tablet keyboard battery network database headset
  interface processor bug feature laptop firewall sensor antenna console printer cable screen backup
verb release patch update encrypt hack install test unveil upgrade debug download scan automate program ban disable reboot
  charge redesign port digitise share delete simulate
adjective digital wireless smart virtual encrypted portable obsolete automated mobile faulty foldable hybrid viral secure
  artificial
event outage hack leak launch upgrade glitch breach blackout recall update demonstration

football
actor striker goalkeeper defender midfielder coach referee captain club fan winger manager substitute team supporter scout
  rookie champion linesman underdog veteran
thing goal penalty trophy match title cup transfer league derby final medal stadium contract ball lead pitch jersey corner
  season record header fixture pass tackle kit
verb win lose score save miss celebrate sign chase clinch defend reach retain dominate watch host secure claim level attend
  captain protest applaud predict
adjective unbeaten injured late stunning crucial dramatic disallowed spectacular relegated talented goalless young dubious
  favourite
event defeat victory draw final replay transfer injury shootout kickoff derby suspension comeback

athletics
actor runner sprinter swimmer cyclist rower gymnast skater jumper hurdler wrestler boxer archer fencer champion trainer steward
  marathoner skier paralympian olympian
thing race medal record title marathon relay javelin hurdle sprint lap podium tournament heat triathlon rally trophy final
  routine bout stage jersey track helmet semifinal dive
verb win lose finish lead enter attempt clear claim complete clinch watch equal celebrate regain dominate abandon extend
  organise attend time
adjective olympic fastest tireless national golden injured barefoot dramatic gruelling thrilling downhill amateur indoor
  youthful
event final heat marathon injury sprint comeback championship ceremony defeat disqualification

music
actor singer pianist drummer violinist orchestra conductor composer guitarist rapper choir band cellist busker trumpeter soprano
  producer songwriter duo quartet organist
thing album concert song symphony guitar opera ballad festival anthem violin chorus tour record piano melody lyric encore waltz
  playlist single sonata stage flute microphone drum ticket trumpet
verb record perform release compose rehearse play arrange remix conduct stream revive headline dedicate tune cover premiere
  produce practise amplify
adjective acoustic classical melodic catchy orchestral loud folk jazzy forgotten haunting lyrical electronic choral soulful
event concert tour festival premiere rehearsal encore reunion recital audition ceremony

cinema
actor actor director actress producer screenwriter critic comedian studio animator stuntman editor presenter dancer playwright
  puppeteer understudy audience extra costumier filmmaker
thing film sequel script scene trailer drama comedy documentary role musical play cartoon thriller award costume plot series
  finale episode screen cameo poster western prop curtain monologue ticket stunt
verb film direct produce finish edit watch praise stage rehearse promote screen release cast applaud mock host animate adapt
  revive dub review
adjective animated silent romantic epic hilarious gripping theatrical unscripted nostalgic gloomy blockbuster bilingual
  satirical
event premiere festival ceremony remake audition screening rehearsal gala matinee backlash

books
actor author poet novelist publisher librarian translator editor bookseller illustrator biographer critic reader reviewer
  essayist historian printer storyteller columnist archivist
thing novel poem memoir library manuscript diary biography chapter bookshop prize translation essay fable dictionary letter
  atlas paperback anthology encyclopedia sonnet shelf cover page footnote scroll sequel
verb publish translate finish review print read praise edit donate borrow collect illustrate catalogue reprint proofread
  dedicate discover serialise archive restore annotate
adjective bestselling unfinished literary handwritten rare witty illustrated gothic poetic slim banned philosophical
  autobiographical
event festival prize launch auction fair reading anniversary quarrel centenary

food
actor chef baker restaurant brewer waiter grocer butcher bakery winemaker taster barista diner cheesemonger cook caterer
  fishmonger confectioner critic kitchen
thing recipe cake menu sandwich soup cheese sauce dumpling pie oven dish dessert biscuit burger noodle pancake wine tart pastry
  omelette sausage salad waffle stew pickle cocktail kettle bun
verb bake cook serve taste invent grill roast sell order salt share season pickle ferment fry chill spice praise slice steam
  decorate smoke
adjective spicy delicious sour salty crunchy sweet vegan stale creamy organic homemade bitter savoury smoky fragrant gourmet
event banquet festival tasting shortage picnic feast recall breakfast contest wedding

farming
actor farmer shepherd grower beekeeper vet rancher dairy cooperative fruitpicker agronomist orchardist breeder tenant landowner
  miller ploughman stockman gardener
thing harvest field tractor crop orchard cow barn vineyard hedge pig seed lamb goat apple potato pasture beehive hen meadow
  fence plough turnip cabbage pumpkin fertiliser silo furrow
verb plant harvest plough feed fence water sell graze raise milk export protect prune fertilise irrigate inspect gather
  cultivate weed
adjective organic ripe rural fertile muddy bumper dairy rustic seasonal stubborn hardy arable
event harvest drought frost fair blight auction shearing flood swarm

travel
actor tourist traveller airline pilot guide passenger backpacker porter steward agent hotelier driver pilgrim holidaymaker
  cyclist
thing flight resort beach passport museum suitcase airport trip visa tour map hotel island castle ticket itinerary souvenir
  hostel route landmark voucher runway terminal postcard campsite trail spa
verb book delay visit explore rate miss board photograph reopen crowd recommend tour avoid enjoy reserve overbook promote map
  refund cross describe
adjective scenic cheap luxurious crowded delayed exotic overbooked coastal remote quaint sunny picturesque popular overnight
  budget
event holiday delay cruise tour strike festival voyage pilgrimage honeymoon stopover

railways
actor driver commuter passenger conductor operator signalman mechanic inspector engineer cyclist motorist planner courier
  trucker trainspotter carrier stationmaster
thing train station bus tunnel tram bridge platform railway timetable carriage fare motorway signal junction locomotive ticket
  track depot lane ferry scooter crossing bicycle bypass roundabout viaduct lorry
verb delay reroute repair extend block close electrify miss board widen reopen inspect modernise double paint automate service
  derail reduce operate
adjective late crowded electric express suburban overdue congested driverless narrow punctual diesel underground
event strike delay derailment breakdown diversion blackout collision closure detour

sea
actor captain sailor fisherman trawler diver shipyard admiral yachtsman harbourmaster navigator crew angler ferry mariner
  boatbuilder oceanographer
thing ship harbour boat net cargo lighthouse anchor whale container dock reef wreck sail lobster submarine yacht canal barge
  island buoy shark mast lagoon oyster current tide hull
verb sail catch salvage steer rescue board anchor unload repair spot dredge chart navigate track release launch paint refloat
  patrol fish protect
adjective stranded coastal deep rusty marine tidal sunken seaworthy offshore calm salty drifting naval leaky
event storm collision regatta voyage shipwreck spill gale rescue sinking

energy
actor utility driller supplier refinery regulator miner producer grid engineer consumer operator installer household geologist
  electrician prospector plant
thing pipeline reactor turbine panel battery well dam bill boiler meter cable refinery mine generator tariff charger windmill
  transformer barrel heater rig pylon furnace coalfield tanker
verb drill build shut install decommission inspect export expand tax subsidise connect repair fuel store insulate upgrade flood
  meter finance ration
adjective renewable nuclear solar geothermal efficient offshore hydroelectric expensive idle atomic clean industrial
event blackout shortage leak shutdown spill explosion surge accident embargo outage

wildlife
actor ranger conservationist zookeeper birdwatcher biologist poacher vet sanctuary zoo naturalist campaigner gamekeeper
  veterinarian tracker forester charity
thing elephant panda tiger forest owl wolf nest penguin otter bear wetland turtle eagle butterfly gorilla fox cub hedgehog
  parrot reserve seal squirrel frog rhino swan beaver kitten tortoise orchid
verb rescue protect spot release track adopt photograph tag count save film feed relocate observe restore name nurse guard
  reintroduce study
adjective endangered wild rare tame orphaned migratory playful nocturnal extinct injured shy hungry majestic furry
event migration wildfire census escape rescue birth hatching stampede drought sighting

schools
actor teacher student pupil headmaster university professor parent lecturer school tutor graduate college librarian examiner
  nursery governor scholar
thing exam lesson classroom textbook grade scholarship degree uniform timetable course curriculum playground essay blackboard
  campus diploma library syllabus satchel project calculator laboratory dormitory spelling quiz
verb pass fail grade teach scrap fund mark extend study skip revise reform learn organise redesign simplify assess expand set
adjective bilingual strict gifted compulsory academic vocational nervous bright overcrowded primary diligent absent
event exam graduation strike reunion prank term assembly trip holiday debate

labour
actor union worker employer welder apprentice intern cleaner postman bricklayer plumber foreman carpenter picket employee
  recruiter temp janitor electrician roofer
thing wage strike pension contract job factory shift bonus rota workshop vacancy payslip canteen offer grievance timesheet
  uniform toolbox salary break apprenticeship deal ballot holiday
verb demand reject accept negotiate join end sign protect refuse cut raise win lose plan threaten extend defend secure boycott
  suspend
adjective unpaid hourly weary overworked skilled temporary seasonal redundant flexible generous idle permanent manual
event strike walkout layoff protest ballot dispute picket lockout shutdown agreement

housing
actor tenant landlord architect builder planner council homeowner developer surveyor decorator squatter mason plasterer
  neighbour agency lodger renovator
thing house apartment rent roof skyscraper mortgage street garden tower lease kitchen balcony wall park fountain bungalow
  pavement cottage square basement lift staircase attic chimney suburb plaza garage
verb build rent demolish renovate paint design restore repair sell buy insulate extend convert furnish subdivide landscape
  decorate inspect auction
adjective affordable derelict spacious historic vacant modern damp leafy suburban luxurious crumbling tiled vertical
event demolition flood eviction renovation auction boom fire housewarming

diplomacy
actor ambassador diplomat envoy president negotiator monarch king queen minister embassy general peacekeeper delegation
  interpreter spokesman ally attache consul mediator alliance
thing treaty ceasefire border summit sanction pact embassy visa accord truce alliance dispute communique frontier agreement
  consulate resolution mission territory passport timetable tariff concession
verb sign negotiate reject reopen condemn host welcome broker cross close lift impose honour suspend guarantee violate extend
  mediate ratify discuss renew
adjective bilateral foreign neutral peaceful fragile tense historic diplomatic multilateral cordial secret allied
event summit ceasefire truce crisis visit handshake standoff conference exchange apology

history
actor archaeologist historian curator museum collector antiquarian excavator conservator restorer anthropologist archivist
  genealogist monk digger custodian
thing tomb temple coin castle relic vase mosaic ruin fossil sword mummy fresco monument palace skeleton scroll crown shipwreck
  abbey necklace tablet pyramid amphora helmet mural manuscript statue
verb unearth restore exhibit date excavate discover display decipher donate return examine protect photograph catalogue auction
  identify preserve dust
adjective medieval ancient roman prehistoric royal forgotten priceless buried sacred bronze ruined lost fabled
event excavation exhibition discovery anniversary auction restoration dig coronation siege unveiling

fashion
actor designer model tailor boutique stylist photographer milliner seamstress hairdresser jeweller weaver cobbler label
  influencer perfumer apprentice
thing dress jacket scarf hat collection handbag suit gown boot necklace catwalk button sweater fabric perfume glove coat ribbon
  skirt ring shoe mirror zip pocket bracelet wig
verb design unveil model display recycle copy dye mend iron stitch sell buy alter tailor photograph embroider revive donate
  collect
adjective elegant vintage colourful fashionable striped velvet woollen oversized glamorous silk casual flamboyant
event show wedding gala photoshoot launch fitting ball sale premiere

gardens
actor gardener florist botanist landscaper nursery volunteer horticulturist beekeeper judge forester groundsman arborist
  neighbour grower composter
thing rose tulip tree hedge lawn flower pond orchid greenhouse bulb fern shrub daffodil oak bouquet cactus herb blossom lily
  fountain spade vegetable marrow wreath trellis wheelbarrow gnome
verb plant prune water trim paint exhibit uproot name pick propagate transplant protect sell cultivate judge replant harvest
adjective fragrant blooming shady evergreen thorny tropical tidy overgrown giant blue rare delicate
event show frost contest fair harvest picnic heatwave infestation festival
"""

# Words that every topic may use, in an order of its own.
GENERAL = """
actor expert group official family citizen agency spokesman volunteer critic leader campaigner adviser visitor charity pensioner
  local newcomer crowd twin inspector watchdog celebrity activist panel historian reporter insider tycoon veteran organiser
  guest partner teenager grandmother collector
thing plan project system report rule centre programme site record scheme idea service list study decision warning guide ban
  building claim figure limit gift message model photograph strategy standard review method secret design document offer plaque
  solution signal map machine prototype
verb praise criticise announce reveal question ignore examine delay test support back welcome discuss plan promise demand change
  improve start stop abandon favour copy remember compare need expect present finance defend inspect scrap replace borrow study
  showcase use monitor
adjective new big small old local major public huge secret final famous strange simple rival quiet surprising bold rare costly
  joint missing expensive long private unusual special brief useful strong fresh official risky modern extra temporary top
  global open troubled proud smart tiny mysterious perfect familiar bright early hard reliable
event crisis protest row meeting review delay celebration dispute parade incident scare debate accident controversy ceremony
  mistake visit inquiry setback surprise

"""

# Closed lists; each topic ranks them in an order of its own.
SHARED = """
say warn hope insist claim fear believe predict admit expect suggest argue deny report
cause delay threaten disrupt halt inspire overshadow boost hit change endanger affect shape ruin spoil reshape interrupt
  postpone transform
react face recall regret welcome survive celebrate fear avoid study dread enjoy discuss
loom loom end approach continue spread near return worsen start pass ease resume
move climb slip drop jump increase decline soar slide tumble
measure price cost sale shortage queue worry complaint theft import export review
good hope pause trouble courage comfort confidence work fame shelter nightmares energy
give give bring offer
mean mean
leave leave
look look
adverb finally quietly again suddenly rarely still often reluctantly gladly never almost secretly openly proudly now always
  hastily eventually barely
judge hard easy risky fun tedious vital pointless exhausting rewarding illegal affordable addictive
accuse accuse suspect acquit absolve
defer delay postpone defend await regret announce reverse
"""

CLOSED = """
number two three four five six seven eight nine ten twelve fifteen twenty eleven thirty fourteen forty sixteen fifty
  eighteen sixty thirteen seventeen eighty nineteen seventy ninety
tens twenty thirty forty fifty sixty seventy eighty ninety
unit two five one three four six eight seven nine
ordinal second third first fourth fifth sixth seventh eighth ninth tenth
day monday friday tuesday thursday wednesday saturday sunday
month march may june october january september april november july february december august
span years months weeks days hours decades
"""


def parse(text: str) -> dict[str, dict[str, list[str]]]:
    """heading -> kind -> words; lists that stand before any heading have the empty one."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in text.replace("\n  ", " ").split("\n"):
        kind, *words = line.split() or [""]
        if words:
            found.setdefault(heading, {})[kind] = words
        elif kind:
            heading = kind
    return found
