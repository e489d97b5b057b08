"""What is deployed is what was meant: the template is valid, narrow, and complete."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import expand

ROOT = expand.ROOT
HERE = Path(__file__).resolve().parent
# The tools of this environment, and checkov's, which has one of its own.
TOOLS = Path(sys.executable).parent
CHECKOV = os.environ.get("CHECKOV") or str(TOOLS.parent / "checkov" / "bin" / "checkov")

# No tool may look for credentials, call home, or write to the person's own folder.
OFFLINE = {
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "SAM_CLI_TELEMETRY": "0",
}


def run(*command: str | Path, cwd: Path = ROOT, home: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, **OFFLINE, "HOME": str(home)}
    return subprocess.run([str(word) for word in command], cwd=cwd, env=environment, text=True, capture_output=True)


@pytest.fixture(scope="session")
def template() -> dict:
    return expand.read()


@pytest.fixture(scope="session")
def expanded() -> dict:
    return expand.expand()


@pytest.fixture(scope="session")
def expanded_file(expanded: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "expanded.json"
    path.write_text(json.dumps(expanded, indent=2))
    return path


def test_sam_validates_and_lints_it(tmp_path: Path) -> None:
    done = run(TOOLS / "sam", "validate", "--lint", "--template", ROOT / "template.yaml", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cfn_lint_finds_nothing_as_written(tmp_path: Path) -> None:
    done = run(TOOLS / "cfn-lint", ROOT / "template.yaml", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cfn_lint_finds_nothing_as_expanded(expanded_file: Path, tmp_path: Path) -> None:
    done = run(TOOLS / "cfn-lint", expanded_file, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_checkov_finds_only_what_is_explained(expanded_file: Path, tmp_path: Path) -> None:
    assert shutil.which(CHECKOV), f"{CHECKOV} is missing; `tests/run` installs it"
    done = run(
        CHECKOV, "--file", expanded_file, "--framework", "cloudformation", "--output", "json", "--compact",
        "--skip-download", home=tmp_path,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 50, "checkov looked at next to nothing"
    found = {(check["check_id"], check["resource"].rpartition(".")[0]) for check in report["results"]["failed_checks"]}
    entries = yaml.safe_load((HERE / "checkov.yaml").read_text())
    assert all(entry["reason"].strip() for entry in entries)
    explained = {(entry["check"], entry["resources"]) for entry in entries}
    assert found - explained == set(), "findings that nobody explained"
    assert explained - found == set(), "explanations of what is not found any more"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"Architecture": "x86_64"},
        {"JwtIssuer": "https://issuer.example", "JwtAudience": "slipway"},
        {"TokenSecret": "0123456789abcdef0123456789abcdef", "TokenCacheSeconds": "60"},
        {"AlarmEmail": "someone@example.com", "ProtectData": "false"},
    ],
    ids=["defaults", "x86_64", "jwt", "tokens", "other options"],
)
def test_it_expands_for_every_choice(parameters: dict[str, str]) -> None:
    resources = expand.expand(parameters)["Resources"]
    assert sum(resource["Type"] == "AWS::Lambda::Function" for resource in resources.values()) == 10


def of_type(template: dict, kind: str) -> dict[str, dict]:
    return {
        name: resource["Properties"] for name, resource in template["Resources"].items() if resource["Type"] == kind
    }


def test_the_key_of_cursors_is_demanded_and_kept_out_of_sight(template: dict) -> None:
    secret = template["Parameters"]["CursorSecret"]
    assert (secret["NoEcho"], secret["MinLength"], "Default" in secret) == (True, 32, False)
    text = json.dumps([template["Outputs"], template["Resources"]])
    assert "CursorSecret" not in text, "only the functions' environment may name it"
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["CURSOR_SECRET"] == {"Ref": "CursorSecret"}


def listed(value) -> list:
    return value if isinstance(value, list) else [value]


def test_every_function_has_one_name(template: dict) -> None:
    for name, properties in of_type(template, "AWS::Serverless::Function").items():
        folder = re.sub(r"(?<!^)([A-Z])", r"-\1", name).lower()
        assert properties["CodeUri"] == f"functions/{folder}"
        assert properties["Environment"]["Variables"]["SLIPWAY_FUNCTION"] == folder
        assert f'name = "{folder}"' in (ROOT / "functions" / folder / "Cargo.toml").read_text()
        assert template["Resources"][name]["Metadata"]["BuildMethod"] == "rust-cargolambda"
    folders = {path.parent.name for path in ROOT.glob("functions/*/Cargo.toml")}
    assert len(folders) == len(of_type(template, "AWS::Serverless::Function"))


def test_every_route_stands_with_and_without_a_tenant(template: dict) -> None:
    routes = {}
    for name, route in of_type(template, "AWS::ApiGatewayV2::Route").items():
        assert route["RouteKey"] not in routes, f"two routes {route['RouteKey']}"
        routes[route["RouteKey"]] = route["Target"]
    # Whatever no other route takes is answered with the envelope, by a function that may write nothing.
    assert routes.pop("$default") == {"Fn::Sub": "integrations/${QueryIntegration}"}
    plain = {key: target for key, target in routes.items() if " /t/" not in key}
    tenants = {key.replace(" /t/{tenant}/", " /"): target for key, target in routes.items() if " /t/" in key}
    assert plain == tenants
    assert len(plain) + len(tenants) == len(routes) <= 300


# What clients ask before they log in.
OPEN = {"GET /health", "GET /version", "GET /{api}/3.0/mlflow/server-info"}


def test_every_route_is_authorized(template: dict) -> None:
    for name, route in of_type(template, "AWS::ApiGatewayV2::Route").items():
        if route["RouteKey"].replace("/t/{tenant}", "") in OPEN:
            assert route["AuthorizationType"] == "NONE", name
            continue
        assert route["AuthorizationType"] == {
            "Fn::If": ["UsesTokens", "CUSTOM", {"Fn::If": ["UsesJwt", "JWT", "AWS_IAM"]}]
        }, name
        with_tokens, otherwise = route["AuthorizerId"]["Fn::If"][1:]
        assert with_tokens == {"Ref": "TokenAuthorizer"}, name
        assert otherwise["Fn::If"][1] == {"Ref": "JwtAuthorizer"}, name


def test_only_the_authorizer_knows_the_key_of_tokens(template: dict) -> None:
    secret = template["Parameters"]["TokenSecret"]
    assert (secret["NoEcho"], secret["Default"]) == (True, "")
    knowing = [name for name, resource in template["Resources"].items() if "TokenSecret" in json.dumps(resource)]
    assert knowing == ["Authorizer"]
    authorizer = template["Resources"]["TokenAuthorizer"]["Properties"]
    assert (authorizer["AuthorizerPayloadFormatVersion"], authorizer["EnableSimpleResponses"]) == ("2.0", True)
    # Who calls is remembered by the token alone, so that what is remembered must not depend on the path.
    assert authorizer["IdentitySource"]["Fn::If"][:2] == ["CachesTokens", ["$request.header.Authorization"]]


def test_no_policy_allows_everything_of_anything(expanded: dict) -> None:
    statements = [
        (name, statement)
        for name, properties in of_type(expanded, "AWS::IAM::Role").items()
        for policy in properties["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    assert len(of_type(expanded, "AWS::IAM::Role")) == 10
    assert all("ManagedPolicyArns" not in role for role in of_type(expanded, "AWS::IAM::Role").values())
    for name, statement in statements:
        for action in listed(statement["Action"]):
            assert "*" not in action, f"{name} allows {action}"
        for resource in listed(statement["Resource"]):
            # A resource is one of ours; a star may only follow a prefix within it.
            text = json.dumps(resource)
            is_ours = "Fn::GetAtt" in text or re.search(r"\$\{(Bucket|Table)\.Arn\}/", text)
            # Topics of e-mail are made beside the stack, and bear its name.
            is_topic = text.endswith(':${AWS::AccountId}:${AWS::StackName}-*"}')
            assert is_ours or is_topic, f"{name}: {text}"


# What the calls of each function need of IAM, by resource; its card says what it reads and writes.
READ, WRITE, DELETE = ("BatchGetItem", "GetItem", "Query"), ("PutItem", "UpdateItem"), ("DeleteItem",)
ONE_BY_ONE = ("GetItem", "Query")
# A change of what a renamed model has checks that the name still means the model.
CHECK = ("ConditionCheckItem",)
NEEDED = {
    "Register": {
        "Table": [*READ, *WRITE, *DELETE, *CHECK],
        "Bucket": ["ListBucket", "ListBucketMultipartUploads"],
        "documents": ["GetObject", "PutObject"],
        "dropzone": ["DeleteObject", "GetObject"],
        "incoming": ["ListMultipartUploadParts", "PutObject"],
        "runs": ["GetObject"],
    },
    "Promote": {"Table": [*READ, *WRITE, *DELETE, *CHECK], "Bucket": ["ListBucket"], "documents": ["GetObject"]},
    "Query": {
        "Table": READ,
        "Bucket": ["ListBucket"],
        "SigningKey": ["GetPublicKey"],
        "archives": ["GetObject", "GetObjectVersion"],
        "documents": ["GetObject"],
        "dropzone": ["GetObject", "GetObjectVersion"],
        "incoming": ["GetObject", "GetObjectVersion"],
        "models": ["GetObject", "GetObjectVersion"],
        "packages": ["GetObject"],
        "reports": ["GetObject"],
        "runs": ["GetObject", "GetObjectVersion"],
    },
    "ArtifactValidation": {
        "Table": [*ONE_BY_ONE, *WRITE, *DELETE, *CHECK],
        "Bucket": ["ListBucket"],
        "advisories": ["GetObject", "GetObjectVersion"],
        "documents": ["GetObject", "PutObject"],
        "dropzone": ["GetObject", "GetObjectVersion"],
        "incoming": ["GetObject", "GetObjectVersion"],
        "incoming/*/_SLIPWAY_CONTINUE_*": ["PutObject"],
        "incoming/*/_SLIPWAY_DIGEST": ["AbortMultipartUpload", "PutObject"],
        "incoming/*/_SLIPWAY_DIGEST": ["AbortMultipartUpload", "PutObject"],
        "models": ["GetObject", "GetObjectVersion"],
        "reports": ["GetObject", "PutObject"],
        "runs": ["GetObject", "GetObjectVersion"],
    },
    "Packaging": {
        "Table": [*READ, *WRITE, *DELETE, *CHECK, "BatchWriteItem"],
        "Bucket": ["ListBucket", "ListBucketMultipartUploads", "ListBucketVersions"],
        "SigningKey": ["GetPublicKey", "Sign"],
        "archives": ["AbortMultipartUpload", "DeleteObjectVersion", "GetObject", "ListMultipartUploadParts", "PutObject"],
        "documents": ["DeleteObjectVersion", "GetObject", "PutObject"],
        "dropzone": ["DeleteObjectVersion", "GetObject", "GetObjectVersion"],
        "incoming": [
            "AbortMultipartUpload",
            "DeleteObjectVersion",
            "GetObject",
            "GetObjectVersion",
            "ListMultipartUploadParts",
        ],
        "models": [
            "AbortMultipartUpload",
            "DeleteObjectVersion",
            "GetObject",
            "GetObjectVersion",
            "ListMultipartUploadParts",
            "PutObject",
        ],
        "packages": ["DeleteObjectVersion", "GetObject", "PutObject"],
        "reports": ["DeleteObjectVersion", "GetObject"],
        "reports/*/_SLIPWAY_*": ["PutObject"],
        "runs": ["GetObject", "GetObjectVersion"],
    },
    "Tracking": {"Table": [*READ, *WRITE, *DELETE]},
    "Artifacts": {
        "Table": ["BatchGetItem", "GetItem"],
        "Bucket": ["ListBucket"],
        "documents": ["GetObject"],
        "dropzone": ["GetObject", "GetObjectVersion"],
        "incoming": ["GetObject", "GetObjectVersion"],
        "models": ["GetObject", "GetObjectVersion"],
        "runs": ["AbortMultipartUpload", "DeleteObject", "GetObject", "GetObjectVersion", "PutObject"],
    },
    "Oci": {
        "Table": [*READ],
        "Bucket": ["ListBucket"],
        "models": ["GetObject", "GetObjectVersion"],
        "packages": ["GetObject"],
    },
    "Authorizer": {"Table": [*ONE_BY_ONE, "PutItem", *DELETE]},
    "Notifications": {
        "Table": [*READ, *WRITE, *DELETE],
        "EventBus": ["PutEvents"],
        "topics": ["Publish"],
        "Bucket": ["ListBucket"],
        "documents": ["GetObject"],
        "exports": ["GetObject", "PutObject"],
        "seals": ["GetObject", "PutObject", "PutObjectRetention"],
        "Stream": ["DescribeStream", "GetRecords", "GetShardIterator"],
        "stream": ["ListStreams"],
    },
}


def place_of(resource: dict) -> str:
    """`Table` or another resource, or what lies within it, such as `incoming`."""
    if resource.get("Fn::Sub", "").endswith(":${AWS::StackName}-*"):
        return "topics"
    if "Fn::Sub" in resource:
        within = re.fullmatch(r"\$\{(?:Bucket|Table)\.Arn\}/([a-z]+(?:/\*/_SLIPWAY_[A-Z_]*\*?)?)(?:/\*)?", resource["Fn::Sub"])
        return within.group(1)
    name, attribute = resource["Fn::GetAtt"]
    return {"Arn": name, "StreamArn": "Stream"}[attribute]


@pytest.mark.parametrize("function", NEEDED)
def test_a_function_may_do_what_it_does_and_no_more(template: dict, function: str) -> None:
    allowed: dict[str, set[str]] = {}
    role = template["Resources"][f"{function}Role"]["Properties"]
    for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
        for resource in listed(statement["Resource"]):
            actions = {action.partition(":")[2] for action in listed(statement["Action"])}
            allowed.setdefault(place_of(resource), set()).update(actions)
    assert allowed.pop(f"{function}Log") == {"CreateLogStream", "PutLogEvents"}
    if f"{function}Queue" in template["Resources"]:
        assert allowed.pop(f"{function}Queue") == {"DeleteMessage", "GetQueueAttributes", "ReceiveMessage"}
    if function == "Notifications":
        assert allowed.pop("StreamFailures") == {"SendMessage"}
        assert allowed.pop("DeliveriesQueue") == {"DeleteMessage", "GetQueueAttributes", "ReceiveMessage", "SendMessage"}
    assert allowed == {place: set(actions) for place, actions in NEEDED[function].items()}


def test_pinned_object_versions_never_expire(template: dict) -> None:
    rules = template["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    for rule in rules:
        assert set(rule) == {"Id", "Status", "AbortIncompleteMultipartUpload"}, rule["Id"]
    # One day more than a version may wait for its uploads.
    assert [rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] for rule in rules] == [8]


def test_every_event_source_reports_what_failed_and_has_a_place_for_it(expanded: dict) -> None:
    sources = of_type(expanded, "AWS::Lambda::EventSourceMapping")
    queues = of_type(expanded, "AWS::SQS::Queue")
    functions = of_type(expanded, "AWS::Lambda::Function")
    assert len(sources) == 6
    for name, source in sources.items():
        assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"], name
        queue_or_table = source["EventSourceArn"]["Fn::GetAtt"][0]
        if queue_or_table == "Table":
            assert source["BisectBatchOnFunctionError"] is True
            assert source["DestinationConfig"]["OnFailure"]["Destination"]["Fn::GetAtt"][0] in queues
            continue
        queue = queues[queue_or_table]
        function = functions[source["FunctionName"]["Ref"]]
        # A group waits for a call that was killed until its message is visible again.
        times = 2 if queue.get("FifoQueue") else 6
        assert queue["VisibilityTimeout"] >= times * function["Timeout"], name
        assert queue["RedrivePolicy"]["maxReceiveCount"] == 5
        assert queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0] in queues


def test_every_dead_letter_and_every_failing_function_raises_an_alarm(expanded: dict) -> None:
    watched = json.dumps(of_type(expanded, "AWS::CloudWatch::Alarm"))
    queues = of_type(expanded, "AWS::SQS::Queue")
    for name, queue in queues.items():
        if "RedrivePolicy" not in queue:
            assert f'["{name}", "QueueName"]' in watched, name
    for name in of_type(expanded, "AWS::Lambda::Function"):
        assert f'{{"Ref": "{name}"}}' in watched, name


def test_every_log_is_kept_for_a_stated_time(expanded: dict) -> None:
    for name, log in of_type(expanded, "AWS::Logs::LogGroup").items():
        assert log["RetentionInDays"] == {"Ref": "LogRetentionDays"}, name
    for name, function in of_type(expanded, "AWS::Lambda::Function").items():
        assert function["LoggingConfig"]["LogGroup"] == {"Ref": f"{name}Log"}


def test_data_is_kept_encrypted_and_private(expanded: dict) -> None:
    for name in ("Table", "Bucket"):
        assert expanded["Resources"][name]["DeletionPolicy"] == "Retain"
        assert expanded["Resources"][name]["UpdateReplacePolicy"] == "Retain"
    table = expanded["Resources"]["Table"]["Properties"]
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert table["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}
    bucket = expanded["Resources"]["Bucket"]["Properties"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"]["Status"] == "Enabled"
    policy = expanded["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert {statement["Sid"] for statement in policy} == {"TlsOnly", "FilesAreNeverOverwritten"}
    assert {statement["Effect"] for statement in policy} == {"Deny"}


def test_no_function_writes_where_it_is_called_from(expanded: dict) -> None:
    prefixes = {}
    for rule in expanded["Resources"]["Bucket"]["Properties"]["NotificationConfiguration"]["QueueConfigurations"]:
        queue = rule["Queue"]["Fn::GetAtt"][0]
        prefixes[queue.removesuffix("Queue")] = rule["Filter"]["S3Key"]["Rules"][0]["Value"]
    assert len(prefixes) == len(set(prefixes.values())) == 4
    for function, prefix in prefixes.items():
        role = expanded["Resources"][f"{function}Role"]["Properties"]["Policies"][0]["PolicyDocument"]
        for statement in role["Statement"]:
            if "s3:PutObject" in listed(statement["Action"]):
                # Validation and packaging go on by marks of their own, and each mark is one step further.
                written = json.dumps(statement["Resource"])
                for mark in (
                    "/incoming/*/_SLIPWAY_CONTINUE_*",
                    "/incoming/*/_SLIPWAY_DIGEST",
                    "/reports/*/_SLIPWAY_*",
                ):
                    written = written.replace(mark, "")
                assert f"/{prefix}" not in written, function


def test_the_dashboard_is_json(expanded: dict) -> None:
    body = expanded["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    assert json.loads(body)["widgets"]
