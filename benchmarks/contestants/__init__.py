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

VARIANTS = ("llmgine-metrics", "llmgine-uvloop")
"""LLMgine in other circumstances."""

CONTESTANTS = (LIMIT, LLMGINE, *VARIANTS, *PEERS)
