"""Print today's form of every example."""

import json

from stored_corpus import written

print(json.dumps(written(), indent=1, ensure_ascii=False))  # noqa: T201
