"""Chat programs get what `nanogpt sample` would write, each in its turn, and one line for what cannot be."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import torch

from nanogpt.bpe import train_bpe
from nanogpt.chat import PLAIN_TEMPLATE, reply
from nanogpt.cli import main
from nanogpt.config import GPTConfig
from nanogpt.hub import save_pretrained
from nanogpt.model import GPT
from nanogpt.sample import sample_text
from nanogpt.serve import Request, answer, make_app

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'nanogpt[serve]'")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'nanogpt[serve]'")
from fastapi.testclient import TestClient  # noqa: E402

TEXT = "User: where is the fox?\nAssistant: The fox is in the hollow tree by the mill.\n" * 4
ASKED = [{"role": "user", "content": "where is the fox?"}]
GREEDY = {"max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT(GPTConfig(block_size=48, vocab_size=300, n_layer=1, n_head=2, n_embd=16)).eval()


@pytest.fixture(scope="module")
def tokenizer():
    ours = train_bpe(TEXT, 300, ["<|endoftext|>"])
    ours.chat_template = PLAIN_TEMPLATE
    return ours


@pytest.fixture
def client(model, tokenizer):
    with TestClient(make_app(model, tokenizer, "tiny")) as client:
        yield client


@pytest.fixture
def server(model, tokenizer):
    "The address of a real server."
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(uvicorn.Config(make_app(model, tokenizer, "tiny"), log_level="warning"))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        running.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def events(response) -> list[dict]:
    "What a stream says, up to the line that ends it."
    *lines, done = re.findall("data: (.*)\n\n", response.text)
    assert done == "[DONE]" and response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line) for line in lines]


def test_the_same_text_as_sample_and_reply(client, model, tokenizer):
    done = client.post("/v1/completions", json={"prompt": "where is", **GREEDY}).json()
    expected = sample_text(model, tokenizer, "where is", 1, 12, temperature=0.0)[0]
    assert "where is" + done["choices"][0]["text"] == expected
    ids = [tokenizer.eot, *tokenizer.encode("where is")]
    assert done["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 12, "total_tokens": len(ids) + 12}
    assert client.post("/v1/completions", json={"prompt": ids, **GREEDY}).json()["choices"] == done["choices"]
    done = client.post("/v1/chat/completions", json={"messages": ASKED, **GREEDY}).json()
    answer = "".join(reply(model, tokenizer, ASKED, 12, temperature=0.0))
    assert done["choices"][0]["message"] == {"role": "assistant", "content": answer}
    assert done["object"] == "chat.completion" and done["model"] == "tiny"


@pytest.mark.parametrize("path, asked", [("completions", {"prompt": "the"}), ("chat/completions", {"messages": ASKED})])
def test_streaming_equals_whole(path, asked, client):
    asked |= {"seed": 5, "max_tokens": 30}
    whole = client.post(f"/v1/{path}", json=asked).json()
    *pieces, last = events(client.post(f"/v1/{path}", json=asked | {"stream": True}))
    choice, parts = whole["choices"][0], [piece["choices"][0] for piece in pieces]
    if "message" in choice:
        choice, parts = choice["message"], [part["delta"] for part in parts]
    key = "content" if "role" in choice else "text"
    assert len(parts) > 10 and "".join(part[key] for part in parts) == choice[key]
    assert last["usage"] == whole["usage"] and len({piece["id"] for piece in pieces}) == 1
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
    other = client.post(f"/v1/{path}", json=asked | {"seed": 6}).json()
    assert other["choices"] != whole["choices"]


def test_where_a_text_ends(client, model, tokenizer, monkeypatch):
    text = client.post("/v1/completions", json={"prompt": "the", **GREEDY}).json()["choices"][0]["text"]
    ended = client.post("/v1/completions", json={"prompt": "the", "stop": text[3:5], **GREEDY}).json()
    choice = ended["choices"][0]
    assert choice["text"] == text[: text.index(text[3:5])] and choice["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] < 12
    monkeypatch.setattr(tokenizer, "stop_ids", tokenizer.encode(text)[-1:])
    ended = client.post("/v1/completions", json={"prompt": "the", **GREEDY}).json()
    assert ended["choices"][0]["finish_reason"] == "stop" and text.startswith(ended["choices"][0]["text"])
    short = {"messages": ASKED, "max_completion_tokens": 3, "temperature": 0, "stop": None}
    assert client.post("/v1/chat/completions", json=short).json()["usage"]["completion_tokens"] == 3


def test_an_answer_does_not_begin_with_white_space():
    steps = [[" "], [" so"], [" be"], [" it"]]
    whole = [*answer(Request(), True, "tiny", 1, iter(steps))]
    assert json.loads("".join(whole))["choices"][0]["message"]["content"] == "so be it"
    whole = [*answer(Request(), False, "tiny", 1, iter(steps))]
    assert json.loads("".join(whole))["choices"][0]["text"] == "  so be it"


@pytest.mark.parametrize(
    "path, asked, status, message",
    [
        ("completions", {"temperature": -1}, 400, "greater than or equal to 0, got -1"),
        ("completions", {"max_tokens": 0}, 400, "body.max_tokens: Input should be greater than or equal to 1, got 0"),
        ("completions", {"top_p": 2}, 400, "body.top_p: Input should be less than or equal to 1, got 2"),
        ("completions", {"n": 2}, 400, "body.n: Input should be 1, got 2"),
        ("completions", {"seed": -1}, 400, "body.seed: "),
        ("completions", {"stop": [""]}, 400, "stop must be a list of strings that are not empty"),
        ("completions", {"echo": True}, 400, "echo is not supported"),
        ("completions", {"prompt": [7000]}, 400, "the prompt holds the id 7000, outside the model's vocabulary of 300"),
        ("completions", {"prompt": "fox " * 99}, 400, "is longer than the model's context of 48; keep its last 48"),
        ("completions", {"model": "gpt-5"}, 404, "there is no model 'gpt-5' here; use 'tiny'"),
        ("completions", [1], 400, "body: "),
        ("chat/completions", {}, 400, "messages must be a list of at least one, got []"),
        ("chat/completions", {"messages": [{"content": "hello"}]}, 400, "message 1 needs a role (system, user,"),
        ("chat/completions", {"messages": ASKED, "tools": [{}]}, 400, "tools is not supported"),
        ("embeddings", {}, 404, "Not Found"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(path, asked, status, message, client):
    response = client.post(f"/v1/{path}", json=asked)
    error = response.json()["error"]
    assert response.status_code == status and message in error["message"] and "\n" not in error["message"]
    assert error["type"] == "invalid_request_error"


def test_broken_json(client):
    response = client.post("/v1/completions", content="{", headers={"content-type": "application/json"})
    assert response.status_code == 400 and "JSON decode error" in response.json()["error"]["message"]


def test_a_model_that_was_not_taught_to_chat_says_so(client, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    response = client.post("/v1/chat/completions", json={"messages": ASKED})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("tiny was not taught to chat: finetune it on chats")


def test_openais_own_client(server, model, tokenizer):
    openai = pytest.importorskip("openai", reason="openai is not installed")
    client = openai.OpenAI(base_url=server, api_key="none", max_retries=0, timeout=60)
    assert [one.id for one in client.models.list()] == ["tiny"]
    text = client.completions.create(model="tiny", prompt="where is", **GREEDY).choices[0].text
    assert "where is" + text == sample_text(model, tokenizer, "where is", 1, 12, temperature=0.0)[0]
    answer = "".join(reply(model, tokenizer, ASKED, 12, temperature=0.0))
    done = client.chat.completions.create(model="tiny", messages=ASKED, **GREEDY)
    assert done.choices[0].message.content == answer and done.usage.completion_tokens == 12
    pieces = client.chat.completions.create(model="tiny", messages=ASKED, stream=True, **GREEDY)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == answer
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="tiny", messages=ASKED, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="use 'tiny'"):
        client.chat.completions.create(model="another", messages=ASKED)


def test_requests_wait_for_each_other_and_a_client_that_leaves_makes_room(server, monkeypatch):
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    steps, answered = [], threading.Event()
    original = GPT.hidden_states

    def counted(model, ids, *rest):
        steps.append(len(ids))
        return original(model, ids, *rest)

    monkeypatch.setattr(GPT, "hidden_states", counted)

    def second():
        done = httpx.post(f"{server}/completions", json={"prompt": "the", **GREEDY}, timeout=60)
        assert done.json()["usage"]["completion_tokens"] == 12
        answered.set()

    endless = {"prompt": "fox", "max_tokens": 10**9, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{server}/completions", json=endless, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        other = threading.Thread(target=second)
        other.start()
        for _ in range(200):
            next(lines)
        assert not answered.is_set(), "the first text is not at its end"
    other.join(60)
    assert answered.is_set(), "the first client left, and the second one still waits"
    count = len(steps)
    assert httpx.get(f"{server}/models", timeout=60).status_code == 200 and len(steps) == count, "nobody writes now"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_the_command(model, tokenizer, tmp_path):
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    save_pretrained(model, tmp_path / "tiny", tokenizer)
    command = [sys.executable, "-m", "nanogpt", "serve", "tiny", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = re.search(r"tiny answers at (http://127.0.0.1:\d+/v1)", process.stdout.readline())[1]
        done = httpx.post(f"{url}/chat/completions", json={"messages": ASKED, **GREEDY}, timeout=60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    answer = "".join(reply(model, tokenizer, ASKED, 12, temperature=0.0))
    assert done.json()["choices"][0]["message"]["content"] == answer
    assert errors == "nanogpt: stopped\n" and process.returncode == 130


def test_errors_of_the_command_are_one_line(model, tokenizer, tmp_path, capsys, monkeypatch):
    save_pretrained(model, tmp_path / "tiny", tokenizer)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(tmp_path / "tiny"), "--device", "cpu", "--port", port]) == 1
    assert re.fullmatch(r"nanogpt: error: .*ddress already in use.*\n", capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "absent"]) == 1
    assert "pip install 'nanogpt[serve]'" in capsys.readouterr().err
