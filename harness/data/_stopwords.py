"""English function words, with and without apostrophe, as the `stopwords` step drops them.

Not dropped: "us" (in headlines the country), and joined forms that are words themselves
("ill", "well", "shell", "hell", "wed", "id", "shed", "lets", "wont", "cant").
"""

_WORDS = """
a an the this that these those such
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
we our ours ourselves they them their theirs themselves who whom whose which what
am is are was were be been being have has had having do does did doing done
will would shall should can could may might must ought cannot
and or but nor so yet if then else than because as while until unless although though whereas whether
of at by for with without within about against between among into onto through throughout during before after above below
to from up upon down in out on off over under across along around behind beside besides beyond near toward towards via per
again further once here there when where why how both each either neither every any some all few many more most much
other another own same several no not never none only just too very also even still almost ever quite rather
"""
_CONTRACTED = """
i'm i've i'd you're you've you'd you'll he's he'd she's she'd it's it'd it'll we've we're they're they've they'd they'll
that's that'll that'd there's there'd here's what's who's who'll who'd where's when's why's how's let's
isn't aren't wasn't weren't hasn't haven't hadn't doesn't don't didn't won't wouldn't shan't shouldn't
can't couldn't mightn't mustn't needn't
"""
_ONLY_WITH_APOSTROPHE = "i'll we'll we'd he'll she'll"

_JOINED = {word.replace("'", "") for word in _CONTRACTED.split()} - {"id", "shed", "lets", "wont", "cant"}
STOPWORDS = frozenset(_WORDS.split()) | frozenset(_CONTRACTED.split()) | frozenset(_ONLY_WITH_APOSTROPHE.split()) | frozenset(_JOINED)
