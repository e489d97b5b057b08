"""Signs the requests of MLflow's client for Amazon API Gateway, with IAM credentials."""

from slipway_mlflow.provider import SlipwaySigV4Provider
from slipway_mlflow.sigv4 import SigV4

__all__ = ["SigV4", "SlipwaySigV4Provider"]
