"""The message of the limit, and of the libraries whose messages carry no id and date of their own."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime


@dataclass
class Message:
    """What people write by hand when no framework gives them an id and a date."""

    n: int
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    timestamp: str = field(default_factory=lambda: datetime.now().isoformat())  # noqa: DTZ005  # as people write it
