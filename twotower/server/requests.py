"""What requests and answers hold, as strict pydantic models: the checks before a bundle is asked, and the OpenAPI.

A request's own keys are checked here; event keys, values and filters by the bundle, which knows its own.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import Query
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from twotower.core.schema import ITEM_ID

EVENTS, IDS, USERS, MOST_K = 5_000, 10_000, 10_000, 1_000  # in one request
CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"

Text = Annotated[StrictStr, Field(min_length=1, max_length=512)]
Name = Annotated[Text, BeforeValidator(lambda value: str(value) if type(value) is int else value)]  # 17 is "17"
ItemId = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | Text
Value = StrictBool | StrictInt | StrictFloat | Annotated[StrictStr, Field(max_length=4_096)] | None
K = Annotated[StrictInt, Field(ge=1, le=MOST_K)]
Ids = Annotated[list[ItemId], Field(max_length=IDS)]
Bucket = Literal["champion", "challenger"]
Limit = Annotated[int, Query(ge=1, le=100, description="items of a search")]


def _with_item(event: dict[str, Any]) -> dict[str, Any]:
    item = event.get(ITEM_ID)
    is_id = (type(item) is str and 0 < len(item) <= 512) or (type(item) is int and -(2**63) <= item < 2**63)
    if not is_id:
        found = str(item)[:100] if ITEM_ID in event else "missing"
        raise ValueError(f"{ITEM_ID} is {found}; expected a text or a number")
    return event


class Event(BaseModel):
    """An event of a history, for the OpenAPI; the bundle adds its own keys."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Value]
    item_id: ItemId


Events = Annotated[dict[Text, Value], AfterValidator(_with_item)]
History = Annotated[list[ItemId | Events], Field(max_length=EVENTS)]


class Request(BaseModel):
    """Refuses unknown keys, and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Lists(Request):
    """What a list of items can be limited by; see `twotower.serving.retriever.Retriever.recommend`."""

    k: K = 20
    filters: dict[str, Any] | None = None
    include: Ids | None = None
    exclude: Ids | None = None
    max_per: dict[Text, K] | None = None


class Whom(Request):
    """Whose next items: of a stored user, after a history, or after both, the stored events first."""

    user_id: Name | None = None
    history: History | None = None
    context: dict[Text, Value] | None = None
    objective: Text | dict[Text, float] | None = None
    timestamp: Annotated[StrictInt, Field(ge=10**11, lt=10**14)] | None = None
    bucket: Bucket | None = None


class Recommend(Lists, Whom):
    """Ask for the next items.

    >>> Recommend(user_id="u-1", k=5).k
    5
    """

    exclude_seen: StrictBool = False
    exploration: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] | None = None
    explain: StrictBool = False


class Similar(Lists):
    """Ask for items that are like one."""

    item_id: ItemId
    bucket: Bucket | None = None


class Audience(Request):
    """Ask for the stored users with the highest scores for an item."""

    item_id: ItemId
    k: K = 20
    objective: Text | dict[Text, float] | None = None
    user_ids: Annotated[list[Name], Field(max_length=USERS)] | None = None
    bucket: Bucket | None = None


class UserEvent(Event):
    """An event to keep, for the OpenAPI."""

    user_id: Name
    event_type: Name | None = None
    timestamp: Annotated[StrictInt, Field(ge=10**11, lt=10**14, description="milliseconds since 1970")] | None = None
    consent: StrictBool | None = None


class NewEvents(Request):
    """Keep events of users; one with `consent` false is not kept."""

    events: Annotated[list[UserEvent], Field(max_length=EVENTS)]


class Items(Request):
    """Add items, or change their features."""

    items: Annotated[list[dict[Text, Any]], Field(min_length=1, max_length=IDS)]


class ItemIds(Request):
    """Remove items."""

    item_ids: Annotated[list[ItemId], Field(min_length=1, max_length=IDS)]


class Share(BaseModel):
    """How much of a score is due to an event of the history."""

    item_id: ItemId
    event_type: str | None = None
    share: float


class Scored(BaseModel):
    """An item of a list; `score` is null for the most frequent items, where nothing of the history is known."""

    item_id: ItemId
    score: float | None
    probability: float | None = None
    reasons: list[Share] | None = None


class Answer(BaseModel):
    """The items, best first, and who answered."""

    items: list[Scored]
    is_fallback: bool | None = None
    model: str
    bucket: str | None = None
    request_id: str
    degraded: list[str] | None = None


class AudienceMember(BaseModel):
    """A user of an audience."""

    user_id: str
    score: float


class AudienceAnswer(BaseModel):
    """The users, best first."""

    users: list[AudienceMember]
    model: str
    request_id: str


class Stored(BaseModel):
    """How many events were taken, why others were not, and how much of them the champion does not know, by kind."""

    stored: int
    ignored: dict[str, int]
    unknown: dict[str, int] | None = None


class Problem(BaseModel):
    """What arrived, what was expected, and what to do."""

    message: str
    where: str
    request_id: str


class Failure(BaseModel):
    """An answer with a status from 400 on."""

    error: Problem
