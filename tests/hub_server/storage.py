"""The second host, where large files lie: it knows signed addresses and no tokens."""

from typing import TYPE_CHECKING

from hub_server.reading import disposition
from hub_server.reply import HubError, Reply

if TYPE_CHECKING:
    from hub_server.wire import Call


def checked(call: "Call") -> None:
    if call.request.authorized:
        # as storage does that is given a signature and a token at once
        raise HubError(400, "Only one auth mechanism allowed")
    if call.query.get("X-Signature") not in call.hub.grants:
        raise HubError(403, "Access denied")


def content(call: "Call") -> Reply:
    checked(call)
    grant = call.hub.grants[call.query["X-Signature"]]
    headers = {
        "Content-Type": "application/octet-stream",
        # Storage has an ETag of its own: that of the Hub, the SHA-256, comes with the redirect only.
        "ETag": f'"{grant.blob.sha256[:32]}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(grant.path),
    }
    return Reply(200, headers, grant.blob, ranged=True)


def upload(call: "Call") -> Reply:
    checked(call)
    blob = call.spool()
    etag = call.hub.uploads.put(call.query["X-Signature"], blob)
    return Reply(200, {"ETag": f'"{etag}"'})


ACTIONS = {"content": content, "upload": upload}
