"""An executor in Python, made from the proto alone: prints what it saw as one JSON document.

Usage: client.py STUBS_DIR TCP_ADDRESS SOCKET_PATH, with the access token in CREDWAY_TOKEN.
"""

import json
import os
import sys

sys.path.insert(0, sys.argv[1])

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from google.protobuf.descriptor_pool import DescriptorPool

from credway.v1 import credential_service_pb2 as credway
from credway.v1 import credential_service_pb2_grpc as credway_grpc

DEADLINE_SECONDS = 10
METADATA = [("authorization", "Bearer " + os.environ["CREDWAY_TOKEN"])]


def reflected(channel):
    """What the daemon says of itself, to one who has no proto."""
    database = ProtoReflectionDescriptorDatabase(channel)
    service = DescriptorPool(database).FindServiceByName("credway.v1.CredentialService")
    return {"services": sorted(database.get_services()), "methods": [method.name for method in service.methods]}


def health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    services = ["", "credway.v1.CredentialService"]
    answers = [stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_SECONDS) for name in services]
    return [health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) for answer in answers]


def resolve(stub, metadata=METADATA, **wanted):
    """The config as a plain dict, or the refusal as its ErrorInfo tells it."""
    request = credway.ResolveCredentialsRequest(**wanted)
    try:
        answer = stub.ResolveCredentials(request, metadata=metadata, timeout=DEADLINE_SECONDS)
    except grpc.RpcError as error:
        return refusal(error)
    return {entry.key: getattr(entry, entry.WhichOneof("value")) for entry in answer.config}


def refusal(error):
    status = rpc_status.from_call(error)
    told = {"code": error.code().name, "message": error.details()}
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            told |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
    return told


def batch(stub):
    steps = [credway.BatchStep(step="charge", instance_id="demo-echo"), credway.BatchStep(step="mail", instance_id="nothing")]
    request = credway.BatchResolveCredentialsRequest(workflow_id="demo-sandbox", steps=steps)
    answer = stub.BatchResolveCredentials(request, metadata=METADATA, timeout=DEADLINE_SECONDS)
    return {result.step: result.refusal.reason or result.WhichOneof("outcome") for result in answer.results}


# For a Unix socket, gRPC's C core makes an authority of the socket's path that HTTP/2 does not allow, and the daemon's HTTP/2
# refuses it with PROTOCOL_ERROR (grpc/grpc#38142, hyperium/h2#487). So the client names one.
OPTIONS = [("grpc.default_authority", "localhost")]


def seen_over(target):
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        stub = credway_grpc.CredentialServiceStub(channel)
        return {
            "reflection": reflected(channel),
            "health": health(channel),
            "profile": resolve(stub, instance_id="demo-echo"),
            "workflow": resolve(stub, instance_id="demo-echo", workflow_id="demo-sandbox"),
            "step": resolve(stub, instance_id="demo-echo", workflow_id="demo-sandbox", step="charge"),
            "batch": batch(stub),
            "unknown": resolve(stub, instance_id="nothing"),
            "no_token": resolve(stub, metadata=[], instance_id="demo-echo"),
        }


targets = {"tcp": sys.argv[2], "socket": "unix:" + sys.argv[3]}
print(json.dumps({name: seen_over(target) for name, target in targets.items()}))
