"""Expands `template.yaml` as CloudFormation would, with SAM's own translator."""

import copy
import json
import sys
from pathlib import Path
from unittest.mock import patch

from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.public.translator import Translator

ROOT = Path(__file__).resolve().parents[2]


def read() -> dict:
    """The template as it is written, with intrinsic functions in their long form."""
    return json.loads(json.dumps(yaml_parse((ROOT / "template.yaml").read_text())))


def expand(parameters: dict[str, str] | None = None) -> dict:
    """The template as CloudFormation would get it, for these parameters and the defaults of the others."""
    template = copy.deepcopy(read())
    values = {name: parameter.get("Default", "") for name, parameter in template["Parameters"].items()}
    values.update(parameters or {})
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            # `sam deploy` uploads the code and puts its place here.
            resource["Properties"]["CodeUri"] = "s3://somewhere/code.zip"
    # The translator asks the session for a region. Amazon's managed policies, which it would look up, are not used.
    with patch("boto3.session.Session.region_name", "eu-central-1"):
        return Translator({}, Parser()).translate(template, values)


if __name__ == "__main__":
    json.dump(expand(), sys.stdout, indent=2)
