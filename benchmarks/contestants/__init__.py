"""One module per contestant: the work of every row, written as that library's own documentation writes it."""

LIMIT = "limit"
LLMGINE = "llmgine"

PEERS = (
    "diator",
    "mediatr",
    "blinker",
    "pyee",
    "aiopubsub",
    "lato",
    "python-cqrs",
    "autogen-core",
    "bubus",
    "abxbus",
)

CONTESTANTS = (LIMIT, LLMGINE, *PEERS)
