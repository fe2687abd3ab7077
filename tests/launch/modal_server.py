"""A stand-in for Modal's servers on this machine: writes down what it is asked, and answers what the client needs.

`PYTHON modal_server.py FILE` in a Python with modal; prints its port, and appends each request to FILE as JSON. The
protocol is Modal's own and may change with any version of its client.
"""

import asyncio
import base64
import json
import sys
import time
from pathlib import Path

from google.protobuf.json_format import MessageToDict
from grpclib.server import Server
from modal_proto import api_pb2 as api
from modal_proto.api_grpc import ModalClientBase

APP = "ap-" + "0" * 22  # as its client tells an id from a name
DONE = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_SUCCESS)
ended = asyncio.Event()


def token(_):
    body = base64.urlsafe_b64encode(json.dumps({"exp": int(time.time()) + 9999}).encode()).decode().rstrip("=")
    return api.AuthTokenGetResponse(token=f"e30.{body}.x")


def environment(_):
    settings = api.EnvironmentSettings(image_builder_version="2025.06")
    return api.EnvironmentGetOrCreateResponse(
        environment_id="en-1", metadata=api.EnvironmentMetadata(name="main", settings=settings)
    )


def volume(_):
    second = api.VOLUME_FS_VERSION_V2
    return api.VolumeGetOrCreateResponse(volume_id="vo-1", version=second, metadata=api.VolumeMetadata(version=second))


def function(asked):
    ranked = api.FunctionData.RankedFunction(rank=0, function=asked.function)
    kind = api.FunctionHandleMetadata(function_name="train", function_type=api.Function.FUNCTION_TYPE_FUNCTION)
    data = api.FunctionData(ranked_functions=[ranked])
    return api.FunctionCreateResponse(function_id="fu-1", function_data=data, handle_metadata=kind)


def spawned(asked):
    inputs = [api.FunctionPutInputsResponseItem(idx=each.idx, input_id="in-1") for each in asked.pipelined_inputs]
    return api.FunctionMapResponse(function_call_id="fc-1", pipelined_inputs=inputs)


def listed(_):
    """A run's folder, as a volume tells of it: without the place where it is mounted, and without a first slash."""
    entry, place = api.FileEntry, "local_training/outputs/cats-t2v-vanilla/high"
    return api.VolumeListFiles2Response(
        entries=[entry(path=place, type=entry.DIRECTORY), entry(path=f"{place}/a.safetensors", type=entry.FILE)]
    )


ANSWERS = {
    "AuthTokenGet": token,
    "EnvironmentGetOrCreate": environment,
    "AppCreate": lambda _: api.AppCreateResponse(app_id=APP, app_page_url="https://modal.com/apps/stand-in"),
    "ImageGetOrCreate": lambda _: api.ImageGetOrCreateResponse(image_id="im-1", result=DONE),
    "MountPutFile": lambda _: api.MountPutFileResponse(exists=True),
    "MountGetOrCreate": lambda _: api.MountGetOrCreateResponse(mount_id="mo-1"),
    "VolumeGetOrCreate": volume,
    "VolumeListFiles2": listed,
    "SecretGetOrCreate": lambda _: api.SecretGetOrCreateResponse(secret_id="st-1"),
    "FunctionPrecreate": lambda _: api.FunctionPrecreateResponse(function_id="fu-1"),
    "FunctionCreate": function,
    "FunctionMap": spawned,
}


def method(name):
    async def answer(self, stream):
        asked = await stream.recv_message()
        with Path(sys.argv[1]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, MessageToDict(asked)]) + "\n")
        if name == "AppGetLogs":  # open as long as the app is
            await ended.wait()
            await stream.send_message(api.TaskLogsBatch(app_done=True))
            return
        if name in ("AppClientDisconnect", "AppStop"):
            ended.set()
        reply = self.__mapping__()[f"/modal.client.ModalClient/{name}"].reply_type
        await stream.send_message(ANSWERS.get(name, lambda _: reply())(asked))

    return answer


async def main():
    methods = {name: method(name) for name in ModalClientBase.__abstractmethods__}
    server = Server([type("StandIn", (ModalClientBase,), methods)()])
    await server.start("127.0.0.1", 0)
    print(server._server.sockets[0].getsockname()[1], flush=True)
    await server.wait_closed()


asyncio.run(main())
