#!/usr/bin/env python3
"""Holds braid's chat template against jinja2 and the published tokenizer, on random conversations.

  chat.py --tool PROGRAM [--count N] [--checkpoint DIR]

PROGRAM is built from tools/tokenize.cpp. With --checkpoint, the template and the vocabulary are those of a published Instruct
checkpoint; otherwise a template of the same form, written here, and the small vocabulary of tests/data.
Needs: pip install jinja2 tiktoken regex.
"""
import argparse, json, pathlib, random, shutil, struct, subprocess, sys, tempfile

import jinja2
import jinja2.sandbox

from tokenizer import DATA, Published, random_text

FORM = """\
{%- for message in messages -%}
  {%- if loop.first and message.role != 'system' -%}
    <|im_system|>system<|im_middle|>You are an assistant.<|im_end|>
  {%- endif -%}
  {%- if message.role == 'user' -%}
    <|im_user|>
  {%- elif message.role == 'assistant' -%}
    <|im_assistant|>
  {%- else -%}
    <|im_system|>
  {%- endif -%}
  {{ message.role }}<|im_middle|>{{ message.content }}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
  <|im_assistant|>assistant<|im_middle|>
{%- endif -%}
"""


def template(checkpoint):
    file = checkpoint / "chat_template.jinja"
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    text = file.read_text() if file.exists() else config["chat_template"]
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    return environment.from_string(text)  # the settings of transformers' apply_chat_template


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--checkpoint", type=pathlib.Path)
    args = parser.parse_args()
    rng = random.Random(1)
    conversations = []
    for _ in range(args.count):
        roles = (["system"] if rng.random() < 0.5 else []) + ["user", "assistant"] * rng.randint(0, 3) + ["user"]
        content = lambda: random_text(rng).decode().replace("<|", "< |").replace("[BOS]", "").replace("[EOS", "")  # names stay names: not as published
        conversations.append({"messages": [{"role": r, "content": content()} for r in roles], "reply": rng.random() < 0.8})

    with tempfile.TemporaryDirectory() as folder:
        directory = args.checkpoint
        if directory is None:
            directory = pathlib.Path(folder)
            for name in ["tiktoken.model", "tokenizer_config.json"]:
                shutil.copy(DATA / name, directory)
            (directory / "chat_template.jinja").write_text(FORM)
        published, jinja = Published(directory), template(directory)
        texts = [json.dumps(c).encode() for c in conversations]
        out = subprocess.run([args.tool, str(directory), "--chat", "--framed"], input=b"".join(struct.pack("<I", len(t)) + t for t in texts),
                             stdout=subprocess.PIPE, check=True).stdout
        at, wrong = 0, 0
        for c in conversations:
            (n,) = struct.unpack_from("<I", out, at)
            found = list(struct.unpack_from(f"<{n}i", out, at + 4))
            at += 4 + 4 * n
            text = jinja.render(messages=c["messages"], add_generation_prompt=c["reply"], tools=None)
            wrong += found != published.encode(text.encode(), special=True)
        print(f"{len(conversations)} conversations, {wrong} differ")
        sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
