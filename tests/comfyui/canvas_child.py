"""Run in the Python that runs ComfyUI: what ComfyUI's own page makes of workflows that are dropped on its canvas.

python canvas_child.py COMFYUI_FOLDER BROWSER FILE     (JSON in, JSON out on the last line)

The browser is spoken to on its debugging port. Models are none: the page reads workflows without them.
"""

import asyncio
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import aiohttp

READY = "!!(window.app?.graph && LiteGraph.registered_node_types.KSamplerAdvanced)"
DROP = """(async (text, count) => {
  const data = new DataTransfer();
  data.items.add(new File([text], "a.json", {type: "application/json"}));
  const there = {dataTransfer: data, bubbles: true, cancelable: true, clientX: 400, clientY: 400};
  document.querySelector("#graph-canvas").dispatchEvent(new DragEvent("drop", there));
  for (let n = 0; n < 100 && app.graph._nodes.length != count; n++) await new Promise((done) => setTimeout(done, 100));
  const {output} = await app.graphToPrompt();
  app.graph.clear();
  return output;
})"""


async def until(session, address, good):
    """What is answered there, once something good is."""
    for _ in range(240):
        try:
            async with session.get(address) as answer:
                if answer.status == 200 and (found := good(await answer.json())):
                    return found
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.5)
    raise TimeoutError(address)


async def evaluate(page, code):
    """What a piece of JavaScript gives in the page."""
    asked = {"expression": code, "awaitPromise": True, "returnByValue": True}
    await page.send_json({"id": 1, "method": "Runtime.evaluate", "params": asked})
    while "id" not in (told := await page.receive_json(timeout=60)):
        pass
    assert "exceptionDetails" not in told["result"], told
    return told["result"]["result"].get("value")


async def dropped(home, server, workflows):
    """Each workflow as the page would send it."""
    async with aiohttp.ClientSession() as session:
        await until(session, f"{server}/system_stats", bool)
        for _ in range(60):  # the port that the browser has chosen
            if (port := home / "profile" / "DevToolsActivePort").is_file():
                break
            await asyncio.sleep(0.5)
        browser = f"http://127.0.0.1:{port.read_text().split()[0]}"
        async with session.put(f"{browser}/json/new?{server}") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(address, max_msg_size=0) as page:
            while not await evaluate(page, READY):
                await asyncio.sleep(0.5)
            await asyncio.sleep(3)  # it opens a workflow of its own
            return {
                name: await evaluate(page, f"{DROP}({json.dumps(text)}, {len(json.loads(text)['nodes'])})")
                for name, text in workflows.items()
            }


def main():
    folder, browser, asked = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        home = Path(place)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for name in ("input", "models", "custom_nodes"):
            (home / name).mkdir()
        offline = ["--cpu", "--disable-all-custom-nodes", "--disable-api-nodes", "--listen", "127.0.0.1"]
        where = ["--port", str(port), "--base-directory", place]
        headless = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        profile = ["--remote-debugging-port=0", f"--user-data-dir={home / 'profile'}", "about:blank"]
        argvs = [[sys.executable, f"{folder}/main.py", *offline, *where], [browser, *headless, *profile]]
        started = [subprocess.Popen(argv, stdout=sys.stderr) for argv in argvs]
        try:
            workflows = json.loads(Path(asked).read_text(encoding="utf-8"))
            answer = asyncio.run(dropped(home, f"http://127.0.0.1:{port}", workflows))
        finally:
            for process in started:
                process.terminate()
                process.wait()
    print(json.dumps(answer))


main()
