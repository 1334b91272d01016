"""What stands in the paths of Membridge. A thing that cannot exist is a 404."""

import re
from typing import Annotated

from fastapi import Depends

from bloom.base.errors import NotFound
from bloom.membridge.service.refusals import agent_not_found, project_not_found, version_not_found
from bloom.web.parameters import can_be_id

_CANONICAL_ID = re.compile("[0-9a-f]{16}")
_SHA256 = re.compile("[0-9a-f]{64}")


async def _cid(cid: str) -> str:
    if not _CANONICAL_ID.fullmatch(cid):
        raise project_not_found()
    return cid


async def _sha256(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise version_not_found()
    return sha256


async def _agent_name(name: str) -> str:
    if not can_be_id(name):
        raise agent_not_found("(unreadable)")
    return name


async def _project_name(name: str) -> str:
    if not can_be_id(name):
        raise project_not_found()
    return name


async def _job_id(job_id: str) -> str:
    if not can_be_id(job_id):
        raise NotFound("There is no such job.", code="job_not_found")
    return job_id


PathCanonicalId = Annotated[str, Depends(_cid)]
PathSha256 = Annotated[str, Depends(_sha256)]
PathAgentName = Annotated[str, Depends(_agent_name)]
PathProjectName = Annotated[str, Depends(_project_name)]
PathJobId = Annotated[str, Depends(_job_id)]
