"""What outlives the process, and what is done about failures: rows and contestants of their own, and a table."""

from contestants import LIMIT, LLMGINE

CONTESTANTS = (LIMIT, LLMGINE, "apscheduler")
