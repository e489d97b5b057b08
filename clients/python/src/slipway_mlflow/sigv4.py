"""SigV4 for the service `execute-api`, by botocore's own signer.

What botocore signs is the request as it goes over the wire, so that the request is first brought into the one spelling
that the gateway computes from it: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import os
import re
from typing import Any, Optional
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from requests import PreparedRequest, Response
from requests.auth import AuthBase

SERVICE = "execute-api"
_HOST = re.compile(r"\.execute-api\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?$")
# Characters that stand for themselves in SigV4, besides letters and digits.
_UNRESERVED = "-_.~"
# What the signer adds to a request.
_SIGNATURE = ("Authorization", "X-Amz-Date", "X-Amz-Security-Token")


class SigV4(AuthBase):
    """Signs requests with the credentials that botocore finds."""

    def __init__(self, session: Optional[botocore.session.Session] = None, region: Optional[str] = None) -> None:
        self._session = session or botocore.session.Session()
        self._region = region

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise RuntimeError("there are no AWS credentials; run `aws configure`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID")
        request.url = canonical_url(request.url)
        body = _replayable(request)
        signed = AWSRequest(method=request.method, url=request.url, data=body, headers=_signed_headers(request))
        # Frozen, because temporary credentials may be refreshed between two reads of their parts.
        SigV4Auth(credentials.get_frozen_credentials(), SERVICE, self.region_of(request.url)).add_auth(signed)
        for name in _SIGNATURE:
            request.headers.pop(name, None)
            if name in signed.headers:
                request.headers[name] = signed.headers[name]
        request.register_hook("response", _unsign_before_redirect)
        return request

    def region_of(self, url: str) -> str:
        """The region of the gateway; of a domain of one's own it is the region that AWS's settings name."""
        found = _HOST.search(urlsplit(url).hostname or "")
        if self._region:
            return self._region
        if found:
            return found.group(1)
        region = os.environ.get("AWS_REGION") or self._session.get_config_variable("region")
        if not region:
            raise RuntimeError("the host does not tell the AWS region; set AWS_REGION")
        return region


def canonical_url(url: str) -> str:
    """The URL with path and query in SigV4's spelling: a space is `%20`, and nothing is encoded that need not be."""
    parts = urlsplit(url)
    path = "/".join(quote(unquote(segment), safe=_UNRESERVED) for segment in parts.path.split("/")) or "/"
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = "&".join(f"{quote(name, safe=_UNRESERVED)}={quote(value, safe=_UNRESERVED)}" for name, value in pairs)
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def _signed_headers(request: PreparedRequest) -> dict[str, str]:
    # Proxies and the gateway itself change others on their way; the signer adds the host and its own.
    content_type = request.headers.get("Content-Type")
    if content_type is None:
        return {}
    return {"Content-Type": content_type.decode() if isinstance(content_type, bytes) else content_type}


def _replayable(request: PreparedRequest) -> Any:
    """The body as the signer can hash it and `requests` can send it afterwards."""
    body = request.body
    if body is None or isinstance(body, (bytes, str)) or hasattr(body, "seek"):
        return body.encode() if isinstance(body, str) else body
    # A stream that can be read only once: the gateway wants its hash before its first byte.
    whole = b"".join(body) if hasattr(body, "__iter__") else body.read()
    request.body = whole
    request.headers.pop("Transfer-Encoding", None)
    request.headers["Content-Length"] = str(len(whole))
    return whole


def _unsign_before_redirect(response: Response, **_: Any) -> Response:
    """Takes the signature off: where a redirect leads, S3 refuses a second one, and it is nobody else's to see."""
    if response.is_redirect:
        for name in _SIGNATURE:
            response.request.headers.pop(name, None)
    return response
