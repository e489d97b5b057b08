"""What MLflow asks for with `MLFLOW_TRACKING_AUTH=slipway-sigv4`."""

from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider

from slipway_mlflow.sigv4 import SigV4

NAME = "slipway-sigv4"


class SlipwaySigV4Provider(RequestAuthProvider):
    """Gives MLflow's client a signer; credentials are looked for when the first request is signed."""

    def __init__(self) -> None:
        self._signer = SigV4()

    def get_name(self) -> str:
        return NAME

    def get_auth(self) -> SigV4:
        return self._signer
