"""The wire of the connection to Membridge, and what is read of its list of agents. Times are epoch milliseconds."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt
from pydantic.json_schema import SkipJsonSchema

from bloom.base.fields import StorableText
from bloom.upstream.address import check_key, check_url
from bloom.upstream.model import KeySource


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


class Request(BaseModel):
    """Base of what is received: unknown fields are ignored, as existing clients expect."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


AdminKey = Annotated[
    Annotated[str, AfterValidator(check_key)] | None, BeforeValidator(_none_if_blank), Field(repr=False)
]


class SaveConfig(Request):
    """POST /config. A field that is left out, or blank, is kept; `membridge_admin_key` is `admin_key` by another name."""

    membridge_server_url: Annotated[
        Annotated[StorableText, AfterValidator(check_url)] | None, BeforeValidator(_none_if_blank)
    ] = None
    admin_key: AdminKey = None
    membridge_admin_key: AdminKey = None


class ConfigOut(BaseModel):
    """The connection as an admin reads it. `connected`: whether Membridge answered this runtime as it should, last time.

    `last_test`: when it was last tested. `problem`: what has to be done before it can work, in words.
    """

    membridge_server_url: str
    admin_key_masked: str
    connected: bool
    last_test: int | None
    key_source: KeySource
    problem: str | None


class ConnectionTest(BaseModel):
    """`health` is what Membridge says of itself when it is connected; `error` is why it is not, `code` the same for pages."""

    connected: bool
    health: dict[str, Any] | None = None
    error: str | None = None
    code: Annotated[SkipJsonSchema[str | None], Field(exclude=True)] = None


class SelectPrimary(Request):
    """POST /projects/{cid}/leadership/select."""

    primary_node_id: Annotated[StorableText, Field(min_length=1, max_length=256)]
    lease_seconds: Annotated[StrictInt, Field(ge=1, le=2**31)] = 3600
