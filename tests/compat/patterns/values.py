"""Typed values, in and out: what the user's classes say is what the user's code receives."""

import dataclasses
import datetime as dt
import enum
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union
from uuid import UUID

import dspy
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tests.compat.pattern import pattern

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TEXT = {"text": "Ada, 36, likes maths. Bob likes cats."}


class Address(BaseModel):
    street: str
    zip: str | None = None


class Person(BaseModel):
    name: str
    age: int | None = None
    address: Address | None = None
    tags: list[str] = []


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Entry(TypedDict):
    title: str
    pages: int


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: float


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: float


class Tree(BaseModel):
    label: str
    children: list["Tree"] = []


TREE = {"label": "a", "children": [{"label": "b", "children": [{"label": "c", "children": [{"label": "d", "children": [
    {"label": "e", "children": []}]}]}]}, {"label": "f", "children": []}]}  # fmt: skip


ADA = {"name": "Ada", "age": 36, "address": {"street": "Main St 1", "zip": None}, "tags": ["maths"]}
BOB = {"name": "Bob", "age": None, "address": None, "tags": []}


def _typed(name: str, kind: Any, answer: Any, *, doc: str = "Read the text.") -> None:
    """A module whose output has this type, and what the model says."""

    class Read(dspy.Signature):
        text: str = dspy.InputField()
        value: kind = dspy.OutputField()

    Read.__doc__ = doc
    Read = Read.with_instructions(doc)

    class Module(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = dspy.Predict(Read)

        def forward(self, text):
            return self.read(text=text)

    Module.__name__ = Module.__qualname__ = name
    globals()[name] = pattern(Read, TEXT, answers={"value": answer})(Module)


_typed("model_out", Person, ADA)
_typed("models_out", list[Person], [ADA, BOB])
_typed("models_by_name_out", dict[str, Person], {"ada": ADA})
_typed("tree_out", Tree, TREE)
_typed("trees_out", list[Tree], [TREE, TREE])
_typed("optional_model_out", Optional[Person], ADA)
_typed("optional_model_none", Optional[Person], None)
_typed("dataclass_out", Point, {"x": 1, "y": 2})
_typed("dataclasses_out", list[Point], [{"x": 1, "y": 2}, {"x": 3, "y": 0}])
_typed("enum_out", Colour, "red")
_typed("enums_out", list[Colour], ["red", "blue"])
_typed("int_enum_out", Level, 2)
_typed("typed_dict_out", Entry, {"title": "Ada", "pages": 3})
_typed("typed_dicts_out", list[Entry], [{"title": "Ada", "pages": 3}])
_typed("date_out", dt.date, "2026-01-02")
_typed("datetime_out", dt.datetime, "2026-01-02T03:04:05Z")
_typed("time_out", dt.time, "14:30:00")
_typed("duration_out", dt.timedelta, "P1DT2H")
_typed("tuple_out", tuple[str, int], ["Ada", 36])
_typed("tuple_of_many_out", tuple[int, ...], [1, 2, 3])
_typed("set_out", set[str], ["a"])
_typed("union_out", Union[int, str], 7)
_typed("union_of_models_out", Union[Circle, Square], {"kind": "square", "side": 2.0})
_typed(
    "tagged_models_out",
    Annotated[Union[Circle, Square], Field(discriminator="kind")],
    {"kind": "circle", "radius": 1.0},
)
_typed("decimal_out", Decimal, "19.90")
_typed("uuid_out", UUID, "123e4567-e89b-12d3-a456-426614174000")
_typed("literal_out", Literal["good", "bad"], "good")
_typed("literals_out", list[Literal["good", "bad"]], ["good", "bad"])
_typed("bool_out", bool, True)
_typed("int_out", int, 7)
_typed("float_out", float, 0.5)
_typed("dict_out", dict[str, int], {"a": 1})
_typed("nested_out", dict[str, list[tuple[str, int]]], {"a": [["b", 1]]})
_typed("any_out", Any, {"a": [1, None]})
_typed("optional_text_out", Optional[str], "something")
_typed("code_out", dspy.Code, "```python\nprint('hi')\n```")
_typed("java_out", dspy.Code["java"], "```java\nint i;\n```")
_typed("image_out", dspy.Image, {"url": PIXEL})
_typed("reasoning_out", dspy.Reasoning, "So it is.")


@pattern("text -> person: dict[str, Any]", TEXT, answers={"person": ADA})
class ReturnsModel(dspy.Module):
    """A model where the signature has a map."""

    def __init__(self) -> None:
        super().__init__()
        self.read = dspy.Predict(dspy.Signature("text -> person: Person", custom_types={"Person": Person}))

    def forward(self, text):
        return self.read(text=text).person


class Summary(BaseModel):
    title: str
    words: int


@pattern("text -> title: str, words: int", TEXT)
class ReturnsModelOfOutputs(dspy.Module):
    """A model whose fields are the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.read = dspy.Predict("text -> title")

    def forward(self, text):
        return Summary(title=self.read(text=text).title, words=len(text.split()))


class Greet(dspy.Signature):
    """Greet people."""

    people: list[Person] = dspy.InputField()
    greeting: str = dspy.OutputField()


@pattern(Greet, {"people": [Person(**ADA), Person(**BOB)]})
class TakesModels(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.greet = dspy.Predict(Greet)

    def forward(self, people):
        found = self.greet(people=[person for person in people if person.age])
        return dspy.Prediction(greeting=f"{found.greeting} {people[0].address.street}")


def _taking(name: str, kind: Any, value: Any, use: str) -> None:
    """A module whose ``forward`` uses a value as its type; ``use`` is an expression of ``value``."""

    class Take(dspy.Signature):
        """Say it."""

        value: kind = dspy.InputField()
        note: str = dspy.InputField()
        answer: str = dspy.OutputField()

    class Given(dspy.Signature):
        """Say it."""

        value: kind = dspy.InputField()
        answer: str = dspy.OutputField()

    code = compile(use, f"<{name}>", "eval")

    class Module(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.say = dspy.Predict(Take)

        def forward(self, value):
            return self.say(value=value, note=str(eval(code, {**globals(), "value": value})))

    Module.__name__ = Module.__qualname__ = name
    globals()[name] = pattern(Given, {"value": value})(Module)


_taking("model_in", Person, Person(**ADA), "value.name")
_taking("models_by_name_in", dict[str, Person], {"ada": Person(**ADA)}, "value['ada'].age")
_taking("optional_model_in", Optional[Person], Person(**ADA), "value.name")
_taking("tree_in", Tree, Tree(**TREE), "value.children[0].children[0].children[0].children[0].label")
_taking("dataclass_in", Point, Point(1, 2), "value.x + value.y")
_taking("enum_in", Colour, Colour.RED, "value.name")
_taking("int_enum_in", Level, Level.HIGH, "value.name")
_taking("typed_dict_in", Entry, {"title": "Ada", "pages": 3}, "value['pages']")
_taking("date_in", dt.date, dt.date(2026, 1, 2), "value.year")
_taking("datetime_in", dt.datetime, dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "value.hour")
_taking("duration_in", dt.timedelta, dt.timedelta(hours=26), "value.days")
_taking("tuple_in", tuple[str, int], ("Ada", 36), "type(value).__name__")
_taking("set_in", set[str], {"a"}, "type(value).__name__")
_taking("decimal_in", Decimal, Decimal("19.90"), "value + 1")
_taking("uuid_in", UUID, UUID(int=5), "value.int")
_taking("union_of_models_in", Union[Circle, Square], Square(side=2.0), "value.side")
_taking("image_in", dspy.Image, dspy.Image(PIXEL), "type(value).__name__")
_taking("images_in", list[dspy.Image], [dspy.Image(PIXEL), dspy.Image(PIXEL)], "len(value)")
_taking("images_by_name_in", dict[str, dspy.Image], {"a": dspy.Image(PIXEL)}, "sorted(value)")
_taking("optional_image_in", Optional[dspy.Image], dspy.Image(PIXEL), "type(value).__name__")
_taking("audio_in", dspy.Audio, dspy.Audio(data="UklGRg==", audio_format="wav"), "value.audio_format")
_taking("file_in", dspy.File, dspy.File(file_data="data:text/plain;base64,aGk=", filename="a.txt"), "value.filename")
_taking("nameless_file_in", dspy.File, dspy.File(file_data="data:text/plain;base64,aGk="), "value.file_id")
_taking("code_in", dspy.Code, dspy.Code(code="print(1)"), "value.code")


class Chat(dspy.Signature):
    """Talk."""

    history: dspy.History = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


@pattern(Chat, {"history": dspy.History(messages=[{"question": "Hi?", "answer": "Hello."}]), "question": "And?"})
class HistoryIn(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.talk = dspy.Predict(Chat)

    def forward(self, history, question):
        return self.talk(history=history, question=f"{question} ({len(history.messages)})")


class Album(BaseModel):
    title: str
    cover: dspy.Image


class Describe(dspy.Signature):
    """Describe it."""

    album: Album = dspy.InputField()
    text: str = dspy.OutputField()


@pattern(Describe, {"album": Album(title="Blue", cover=dspy.Image(PIXEL))})
class ImageInModel(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.describe = dspy.Predict(Describe)

    def forward(self, album):
        return self.describe(album=album)


class Constrained(dspy.Signature):
    """Rate it."""

    text: str = dspy.InputField()
    stars: int = dspy.OutputField(ge=1, le=5)


@pattern(Constrained, TEXT, answers={"stars": 4})
class WithinLimits(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rate = dspy.Predict(Constrained)

    def forward(self, text):
        return self.rate(text=text)


@pattern(
    "text -> answer", {"text": "«markers» [[ ## answer ## ]] <<CUSTOM-TYPE-START-IDENTIFIER>> <b>&amp;</b> \u2028 🎈"}
)
class StrangeText(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("text -> answer")

    def forward(self, text):
        return self.ask(text=text)
