"""Messages stored and read: exactly, by names that are found again, from any version, and never by running anything."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn

import pydantic
import pytest

from llmgine.errors import CodecError, ConfigurationError, UnknownMessageTypeError
from llmgine.messages import EVENT_CLASSES, Command, Event
from llmgine.messages.codec import StoredMessage, decode, encode, renamed, type_name, upcaster

CORPUS = Path(__file__).parent / "corpus"


def _load_corpus() -> Any:
    spec = importlib.util.spec_from_file_location("stored_corpus", CORPUS / "stored_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    if not hasattr(module, "EXAMPLES"):
        spec.loader.exec_module(module)
    return module


corpus = _load_corpus()
FILES = sorted(CORPUS.glob("format_*.json"), key=lambda path: int(path.stem.partition("_")[2]))
ENTRIES = [(path.stem, entry) for path in FILES for entry in json.loads(path.read_text("utf-8"))]


class Color(Enum):
    RED = 1


@dataclass
class Moved(Event):
    x: Any = None


@dataclass
class Strict(Event):
    x: int
    y: list[int] = field(default_factory=list)


@dataclass
class Pair:
    left: Any = None
    right: Any = None


class Model(pydantic.BaseModel):
    when: datetime
    names: list[str] = []
    kind: str = pydantic.Field(default="a", alias="type")


class Secretive(pydantic.BaseModel):
    key: pydantic.SecretStr


def through_text(message: Any) -> Any:
    stored = encode(message)
    return decode(StoredMessage.from_payload(stored.type_name, stored.version, stored.payload))


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(CodecError) as caught:
        call()
    return str(caught.value)


def told(message: Any) -> dict[str, Any]:
    """What dataclasses do not compare: types, zones, and what caused a message."""
    names = ("id", "timestamp", "session_id", "metadata", "correlation_id", "causation_id", "traceparent")
    return {**encode(message).data, **{name: getattr(message, name) for name in names}}


# The corpus


@pytest.mark.parametrize(
    "entry", [entry for _, entry in ENTRIES], ids=[f"{file}-{e['name']}-{e['version']}" for file, e in ENTRIES]
)
def test_whatever_was_ever_stored_can_be_read(entry: dict[str, Any]) -> None:
    stored = StoredMessage(entry["type_name"], entry["version"], entry["data"])
    expected = corpus.EXAMPLES[entry["name"]]

    read = decode(stored)

    assert type(read) is type(expected)
    assert read == expected
    assert told(read) == told(expected)


def test_a_change_of_the_format_comes_with_a_new_file() -> None:
    newest = {e["name"]: e for file, e in reversed(ENTRIES) if file == FILES[-1].stem}
    today = {e["name"]: e for e in corpus.written()}

    assert today == {name: newest.get(name) for name in today}, (
        f"what is written today is not what {FILES[-1].name} holds: keep that file, and add what "
        "`python tests/messages/corpus` prints as the next"
    )


# What comes back


def test_ids_date_session_metadata_and_chain_come_back() -> None:
    event = corpus.EXAMPLES["command"]

    read = through_text(event)

    assert read == event
    assert told(read) == told(event)
    assert read.traceparent is not None


def test_a_message_that_was_never_read_is_stored_whole() -> None:
    event = Moved(1)
    read = decode(encode(event))

    assert (read.id, read.timestamp, read.correlation_id) == (event.id, event.timestamp, event.id)
    assert read == event


class Role(str, Enum):  # noqa: UP042  # as applications for 3.10 have it
    USER = "user"


def test_a_member_that_is_a_text_stays_a_member() -> None:
    read = through_text(Moved({Role.USER: Role.USER})).x

    assert [(type(key), type(value)) for key, value in read.items()] == [(Role, Role)]


def test_a_number_has_no_limit_of_digits() -> None:
    assert through_text(Moved(7**6000)).x == 7**6000


def test_what_is_stored_does_not_change_with_the_message() -> None:
    event = Moved([1])
    stored = encode(event)
    event.x.append(2)
    event.metadata["key"] = 1
    read: Any = decode(stored)
    read.x.append(3)

    assert decode(stored).to_dict()["x"] == [1]
    assert stored.data["metadata"] == {}


def test_attributes_of_a_class_without_dataclass_come_back() -> None:
    class Plain(Event):
        def __init__(self, x: int) -> None:
            self.x = x
            self._cache = object()

    read: Any = through_text(Plain(3))

    assert type(read) is Plain
    assert read.x == 3
    assert not hasattr(read, "_cache")


def test_a_class_that_says_itself_what_is_stored_is_asked() -> None:
    event = corpus.EXAMPLES["own"]
    stored = encode(event)

    assert stored.data["reversed"] == "terces"
    assert "secret" not in stored.data
    assert told(decode(stored)) == told(event)


@dataclass
class IsoInside(Event):
    when: datetime | None = None

    @classmethod
    def from_dict(cls, data: Any) -> IsoInside:
        assert isinstance(data["when"], str)
        return super().from_dict({**data, "when": datetime.fromisoformat(data["when"]) + timedelta(days=1)})


def test_from_dict_gets_what_to_dict_gave() -> None:
    event = IsoInside(when=datetime(2026, 1, 1, tzinfo=UTC))

    assert through_text(event).when == datetime(2026, 1, 2, tzinfo=UTC)


def test_a_model_comes_back() -> None:
    event = Moved([Model(when=datetime(2026, 1, 1, tzinfo=UTC), names=["a"], type="b")])

    assert through_text(event) == event


def test_a_model_that_would_lose_something_is_refused() -> None:
    assert "Secretive" in error_of(lambda: encode(Moved(Secretive(key=pydantic.SecretStr("k")))))


def test_a_cached_property_is_no_field() -> None:
    from functools import cached_property

    @dataclass
    class Priced(Event):
        net: int = 0

        @cached_property
        def gross(self) -> int:
            return self.net * 2

    event = Priced(2)
    assert event.gross == 4

    assert "gross" not in encode(event).data
    assert through_text(event).gross == 4


def test_time_zones_whose_rules_have_changed_keep_the_instant() -> None:
    stored = encode(Moved(datetime(2026, 7, 1, 12, tzinfo=UTC)))
    stored.data["x"] = {"$datetime": "2026-07-01T12:00:00+05:00", "zone": "Europe/Berlin"}
    read: Any = decode(stored)

    assert read.x == datetime(2026, 7, 1, 7, tzinfo=UTC)
    assert str(read.x.tzinfo) == "Europe/Berlin"


def test_the_text_is_compact_and_readable() -> None:
    payload = encode(Moved(["é", 1])).payload

    assert '"x":["é",1]' in payload


# What cannot be stored


class Nowhere(tzinfo):
    def utcoffset(self, dt: datetime | None) -> None:
        return None

    dst = tzname = utcoffset


def _loop() -> list[Any]:
    values: list[Any] = []
    values.append({"again": values})
    return values


def _deep() -> list[Any]:
    values: list[Any] = []
    for _ in range(100):
        values = [values]
    return values


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


@dataclass
class HalfBroken:
    x: int

    def __getattribute__(self, name: str) -> Any:
        if name == "x":
            raise OSError("gone")
        return super().__getattribute__(name)


def local_pair() -> Any:
    @dataclass
    class Local:
        x: int = 1

    return Local()


UNSTORABLE = [
    print,
    lambda: 1,
    object(),
    Broken(),
    HalfBroken(1),
    ValueError("no"),
    Pair,
    OrderedDict(a=1),
    bytearray(b"x"),
    time(1, tzinfo=Nowhere()),
    local_pair(),
    _loop(),
    _deep(),
    iter([1]),
]


@pytest.mark.parametrize("value", UNSTORABLE, ids=lambda value: type(value).__name__)
def test_what_cannot_be_stored_is_named_with_its_place(value: Any) -> None:
    event = Moved(Pair(right=[0, {"key": value}]))

    assert error_of(lambda: encode(event)).startswith("Moved.x.right[1]['key']")
    stored = encode(event, lossy=True)
    assert stored.lossy
    assert all(path.startswith("Moved.x.right[1]['key']") for path in stored.lost)
    read: Any = decode(StoredMessage.from_payload(stored.type_name, stored.version, stored.payload))
    assert read.x.right[0] == 0
    assert read.id == event.id
    json.dumps(stored.data).encode()


def test_nothing_is_lost_of_what_can_be_stored() -> None:
    stored = encode(Moved([1, (2,)]), lossy=True)

    assert not stored.lossy
    assert stored == encode(decode(stored))


def test_what_contains_itself_is_told_so() -> None:
    values: list[Any] = []
    values += [values, values]  # following each of these to the deepest level would take for ever
    event = Moved(values)
    event.metadata["event"] = event

    assert "contains itself" in error_of(lambda: encode(event))
    assert encode(event, lossy=True).lost == ("Moved.metadata['event']", "Moved.x[0]", "Moved.x[1]")


def test_a_dict_that_changes_meanwhile_is_lost_as_a_whole() -> None:
    values: dict[str, Any] = {}

    class Growing(Event):
        def to_dict(self) -> dict[str, Any]:
            values["another"] = 1
            return {}

    values["first"] = Growing()
    stored = encode(Moved([values, print]), lossy=True)

    assert stored.lost == ("Moved.x[0]", "Moved.x[1]")


def test_a_member_that_its_enumeration_does_not_name_is_refused() -> None:
    class_of: Any = corpus.Color
    stray = object.__new__(class_of)
    stray._name_, stray._value_ = "GREEN", "green"

    assert "does not name" in error_of(lambda: encode(Moved(stray)))


def test_the_sentence_says_what_to_do() -> None:
    assert error_of(lambda: encode(Moved([print]))) == (
        "Moved.x[0] is of type builtins.builtin_function_or_method, which cannot be stored: hold plain data in its "
        "place, such as an id or a text, or override to_dict and from_dict."
    )


def test_a_lossy_message_never_fails_to_be_written() -> None:
    class Unwilling(Event):
        schema_version = "new"  # type: ignore[assignment]

        def to_dict(self) -> NoReturn:
            raise OSError("disk")

    error = error_of(lambda: encode(Unwilling()))
    stored = encode(Unwilling(), lossy=True)

    assert "schema_version" in error
    assert stored.version == 1
    assert stored.lost == ("Unwilling.schema_version", "Unwilling.to_dict()")


def test_a_field_without_a_value_is_named() -> None:
    @dataclass(init=False)
    class Empty(Event):
        x: int

    assert "Empty.x" in error_of(lambda: encode(Empty()))
    assert encode(Empty(), lossy=True).lost == ("Empty.x",)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "2", None])
def test_a_version_that_is_none_is_refused(version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Moved, "schema_version", version)

    assert "schema_version" in error_of(lambda: encode(Moved()))


def test_a_version_that_is_a_field_is_refused() -> None:
    @dataclass
    class Versioned(Event):
        schema_version: int = 2  # type: ignore[misc]

    assert "ClassVar" in error_of(lambda: encode(Versioned()))


# Finding the class


def test_an_unknown_class_is_named_with_what_to_do() -> None:
    with pytest.raises(UnknownMessageTypeError) as caught:
        decode(StoredMessage("shop.orders:Placed", 1, {}))

    assert caught.value.type_name == "shop.orders:Placed"
    assert "import shop.orders" in str(caught.value)
    assert "EVENT_CLASSES['Placed']" in str(caught.value)


LOOKS = """
import sys
from llmgine.errors import UnknownMessageTypeError
from llmgine.messages.codec import StoredMessage, decode

before = set(sys.modules)
event = "llmgine.messages.events:Event"
for name in sys.argv[1:]:
    for stored in (
        StoredMessage(name, 1, {}),
        StoredMessage(event, 1, {"x": {"$object": name, "version": 1, "fields": {}}}),
        StoredMessage(event, 1, {"x": {"$enum": name, "name": "a"}}),
    ):
        try:
            decode(stored)
        except UnknownMessageTypeError:
            continue
        sys.exit(name)
sys.exit(sorted(set(sys.modules) - before) or 0)
"""


def test_of_unknown_classes_the_outermost_is_named() -> None:
    with pytest.raises(UnknownMessageTypeError, match="shop:Placed"):
        decode(StoredMessage("shop:Placed", 1, {"x": {"$object": "shop:Item", "version": 1, "fields": {}}}))


def test_nothing_is_imported_for_a_name() -> None:
    names = ["wave:Wave_read", "xml.dom:X", "builtins:eval", "os:system", "os.path:join", "pathlib:Path"]
    # the second of these modules would import the first, if it were asked
    names += ["llmgine.messages.resources:ResourceEvent", "llmgine.messages.events:ResourceEvent"]
    names += ["llmgine.messages.events:Event.from_dict"]
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, *names], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_registered_class_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EVENT_CLASSES, "Gone", Moved)
    data = encode(Moved(2)).data

    assert type(decode(StoredMessage("long.gone:Gone", 1, data))) is Moved
    assert type(decode(StoredMessage("long.gone:f.<locals>.Gone", 1, data))) is Moved


def test_a_class_in_a_function_is_found_while_it_is_there() -> None:
    def make() -> Any:
        @dataclass
        class Inner(Event):
            x: int = 0

        return Inner(1)

    first, second = make(), make()

    assert type(decode(encode(second))) is type(second)
    assert type(decode(encode(first))) is type(second)


@dataclass
class FoundInAScript(Event):
    """With a name that no other test uses."""

    x: Any = None


def test_a_class_of_a_script_is_found_when_it_is_imported() -> None:
    event = FoundInAScript(Color.RED)
    data = encode(event).data
    data["x"]["$enum"] = "__main__:Color"

    assert decode(StoredMessage("__main__:FoundInAScript", 1, data)) == event


def test_a_class_of_a_module_is_found_when_that_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")
    main.Strict = Strict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "__main__", main)

    assert type(decode(StoredMessage("shop:Strict", 1, encode(Strict(1)).data))) is Strict


def test_a_name_that_two_scripts_use_is_not_guessed() -> None:
    for module in ("one", "two"):
        type("Twice", (Event,), {"__module__": module})

    with pytest.raises(UnknownMessageTypeError):
        decode(StoredMessage("__main__:Twice", 1, {}))


def test_a_child_of_multiprocessing_names_the_script() -> None:
    assert type_name(type("X", (), {"__module__": "__mp_main__"})) == "__main__:X"


# Versions


def test_a_newer_version_is_refused() -> None:
    assert "update it" in error_of(lambda: decode(StoredMessage(type_name(Moved), 2, encode(Moved()).data)))


def test_a_missing_step_is_named() -> None:
    @dataclass
    class Stepped(Event):
        schema_version: ClassVar[int] = 3
        x: int = 0

    @upcaster(Stepped, from_version=1)
    def _(fields: dict[str, Any]) -> dict[str, Any]:
        return fields

    stored = encode(Stepped())

    assert decode(stored).schema_version == 3
    error = error_of(lambda: decode(StoredMessage(stored.type_name, 1, stored.data)))
    assert "@upcaster(" in error
    assert "from_version=2" in error


def test_what_is_stored_does_not_change_with_the_upcaster() -> None:
    entry = next(e for _, e in ENTRIES if e["name"] == "order" and e["version"] == 1)
    stored = StoredMessage(entry["type_name"], 1, entry["data"])
    before = stored.payload
    decode(stored)

    assert stored.payload == before


def test_a_subclass_inherits_the_steps_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    late: Any = type("Late", (corpus.Order,), {})
    fields = encode(late("Ada")).data
    fields["name"] = fields.pop("customer")
    del fields["placed"]
    first = StoredMessage("shop:Late", 1, fields)

    monkeypatch.setitem(EVENT_CLASSES, "Late", late)
    read: Any = decode(first)
    assert type(read) is late
    assert (read.customer, encode(read).version) == ("Ada", 3)

    # A subclass that counts for itself has steps of its own.
    monkeypatch.setitem(EVENT_CLASSES, "Late", type("Late", (corpus.Order,), {"schema_version": 2}))
    assert "nothing leads" in error_of(lambda: decode(first))


def test_an_upcaster_that_fails_is_a_codec_error() -> None:
    @dataclass
    class Failing(Event):
        schema_version: ClassVar[int] = 3

    @upcaster(Failing, from_version=1)
    def _raises(fields: dict[str, Any]) -> dict[str, Any]:
        raise LookupError("no name")

    @upcaster(Failing, from_version=2)
    def _forgets(fields: dict[str, Any]) -> Any:
        fields.clear()

    assert "LookupError: no name" in error_of(lambda: decode(StoredMessage(type_name(Failing), 1, {})))
    assert "has to return a dict" in error_of(lambda: decode(StoredMessage(type_name(Failing), 2, {})))


@pytest.mark.parametrize(
    "register",
    [
        lambda: upcaster(corpus.Order, from_version=1)(dict),
        lambda: upcaster(corpus.Order, from_version=3),
        lambda: upcaster(corpus.Order, from_version=0),
        lambda: upcaster("no colon", from_version=1),
        lambda: upcaster(corpus.Order, from_version=2, to=corpus.Parcel),
        lambda: upcaster("old:Letter", from_version=2, to=corpus.Parcel),
        lambda: renamed("gone.module:Memo", corpus.Order),
        lambda: renamed("Memo", corpus.Order),
    ],
)
def test_steps_that_make_no_sense_are_refused(register: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        register()


def test_a_field_that_is_new_gets_its_default_or_is_named() -> None:
    data = encode(Strict(1)).data
    del data["y"]
    read: Any = decode(StoredMessage(type_name(Strict), 1, data))
    assert read.y == []

    del data["x"]
    assert "has no x" in error_of(lambda: decode(StoredMessage(type_name(Strict), 1, data)))


# What is malformed


@pytest.mark.parametrize(
    "value",
    [
        {"$none": 1},
        {"$date": "2026-01-01", "zone": "UTC"},
        {"$date": "soon"},
        {"$date": 1},
        {"$dict": ["ab"]},
        {"$dict": [[[], 1]]},
        {"$set": [[1]]},
        {"$tuple": "ab"},
        {"$tuple": [1], "type": "stored_corpus:Point"},
        {"$tuple": [1], "type": "stored_corpus:Color"},
        {"$enum": "stored_corpus:Color"},
        {"$enum": "stored_corpus:Color", "name": "GREEN"},
        {"$enum": "stored_corpus:Address", "name": "RED"},
        {"$object": "stored_corpus:Address", "version": 1, "fields": []},
        {"$object": "stored_corpus:Address", "version": 1, "fields": {}},
        {"$object": "stored_corpus:Address", "version": "1", "fields": {"street": "a"}},
        {"$object": "stored_corpus:Color", "version": 1, "fields": {}},
        {"$object": "stored_corpus:Point", "version": 1, "fields": {"x": 1, "y": 2}},
        {"$object": ["stored_corpus:Address"], "version": 1, "fields": {}},
        {"$object": "stored_corpus:Place", "version": 2, "fields": {"name": "", "country": "", "more": 1}},
        {"$datetime": "2026-01-01T00:00:00+00:00", "zone": "../../etc/passwd"},
        {"$datetime": "2026-01-01T00:00:00+00:00", "zone": "Nowhere/Never"},
        {"$datetime": "2026-01-01T00:00:00+00:00", "fold": 7},
        {"$timedelta": [10**20, 0, 0]},
        {"$decimal": "much"},
        {"$float": "1.0"},
        {"$int": "12.5"},
        {"$str": "***"},
        {1: 2},
        (1, 2),
        pytest.param(object(), id="an object"),
        pytest.param(_deep(), id="depth"),
    ],
    ids=repr,
)
def test_what_is_malformed_is_a_codec_error(value: Any) -> None:
    stored = StoredMessage(type_name(Moved), 1, {**encode(Moved()).data, "x": [value]})

    assert error_of(lambda: decode(stored))


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": 5},
        {"event_id": None},
        {"correlation_id": ["a"]},
        {"traceparent": 1},
        {"metadata": None},
        {"to_dict": "x"},
        {"id": "x"},
        {"__class__": "x"},
        {"_identity": "x"},
        {"$base": 1},
        {"$dict": []},
    ],
)
def test_what_would_break_a_message_is_refused(change: dict[str, Any]) -> None:
    stored = encode(Moved())

    assert error_of(lambda: decode(StoredMessage(stored.type_name, 1, stored.data | change)))


@pytest.mark.parametrize("payload", ["", "[]", "nul", '{"x": NaN}', "[" * 100_000, '{"x": 1' + "0" * 5000 + "}"])
def test_a_text_that_is_no_object_is_refused(payload: str) -> None:
    assert "x:Y" in error_of(lambda: StoredMessage.from_payload("x:Y", 1, payload))


@pytest.mark.parametrize(("name", "version"), [("", 1), (":", 1), ("a:", 1), (None, 1), ([], 1), (type_name(Moved), 0)])
def test_a_name_or_version_that_is_none_is_refused(name: Any, version: Any) -> None:
    assert error_of(lambda: decode(StoredMessage(name, version, encode(Moved()).data)))


def test_only_messages_are_decoded() -> None:
    assert "no class of messages" in error_of(lambda: decode(StoredMessage(type_name(Pair), 1, {})))


def test_commands_are_stored_as_events_are() -> None:
    @dataclass
    class Ask(Command[str]):
        prompt: str = ""

    command = Ask("why?")
    read = through_text(command)

    assert read == command
    assert read.command_id == command.command_id
