"""Calls any method of a worker by its name, with JSON in and out, knowing nothing but its address: what grpcurl does.

    python examples/grpc/call.py localhost:9000 phalanx.v1.Text/Embed '{"texts": [{"text": "Hello world"}]}'

The key is read from PHALANX_KEY. Several requests, one a line on standard input, are streamed when no JSON is given.
Needs grpcio, grpcio-reflection and protobuf.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def call(address: str, method: str, requests: Iterable[str], key: str) -> Iterator[str]:
    """Yield the responses as JSON. Raises `grpc.RpcError`, and `KeyError` for a method that the worker does not have."""
    with grpc.insecure_channel(address) as channel:
        service, _, name = method.rpartition("/")
        pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
        described = pool.FindServiceByName(service).methods_by_name[name]
        request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        # On the wire one message is a stream of one, so this form does for all kinds of methods.
        making = channel.stream_stream(
            f"/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        messages = (json_format.Parse(text, request(), descriptor_pool=pool) for text in requests)
        for answer in making(messages, metadata=[("authorization", f"Bearer {key}")], timeout=60.0):
            yield json_format.MessageToJson(answer, indent=None, preserving_proto_field_name=True)


def main() -> int:
    """Call what the command line names; returns 1 when it fails."""
    if len(sys.argv) < 3:
        sys.stderr.write(__doc__ or "")
        return 1
    address, method, *given = sys.argv[1:]
    try:
        for line in call(address, method, given or sys.stdin, os.environ.get("PHALANX_KEY", "")):
            sys.stdout.write(line + "\n")
    except grpc.RpcError as error:
        sys.stderr.write(f"{error.code().name}: {error.details()}\n")
        return 1
    except KeyError as error:
        sys.stderr.write(f"the worker does not have {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
