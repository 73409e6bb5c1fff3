#!/usr/bin/env python3
"""Holds braid's tokenizer against the tiktoken package, with the published split pattern.

  tokenizer.py train --size N --out DIR FILE...  a vocabulary trained on files (byte-pair encoding), with special tokens
  tokenizer.py fixtures                          writes tests/data/tokenizer: a small vocabulary and what tiktoken makes of texts
  tokenizer.py agree --tool PROGRAM [--count N] [--model DIR]...   compares the program built from tools/tokenize.cpp
  tokenizer.py characters --tool PROGRAM         compares the classes of all 1,112,064 characters

Needs: pip install tiktoken regex. Real text is whatever the machine has: translations (.mo), documentation, sources.
"""
import argparse, base64, collections, gettext, gzip, heapq, json, pathlib, random, struct, subprocess, sys, tempfile, unicodedata

import regex
import tiktoken

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "tokenizer"

# The split pattern of the published checkpoints, in the syntax of Rust's regex crate.
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join([
    r"[\p{Han}]+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}",
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
])

NAMES = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 6: "<|start_header_id|>",
         7: "<|end_header_id|>", 9: "[EOT]", 10: "<|im_system|>", 17: "<|im_middle|>", 254: "[UNK]", 255: "[PAD]"}


class Published:
    """What the published tokenizer does with a string: long texts are cut, then tiktoken encodes the parts."""

    def __init__(self, directory):
        lines = (directory / "tiktoken.model").read_bytes().split(b"\n")
        ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in lines if line)}
        config = json.loads((directory / "tokenizer_config.json").read_text())
        added = {int(i): v["content"] for i, v in config["added_tokens_decoder"].items()}
        special = {added.get(i, f"<|reserved_token_{i}|>"): i for i in range(len(ranks), len(ranks) + 256)}
        self.encoding = tiktoken.Encoding("published", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    @staticmethod
    def parts(text):
        for begin in range(0, len(text), 400_000):
            block = text[begin:begin + 400_000]
            start, run, space = 0, 0, block[0].isspace()
            for i, c in enumerate(block):
                if c.isspace() != space:
                    space, run = not space, 1
                elif run == 25_000:
                    yield block[start:i]
                    start, run = i, 1
                else:
                    run += 1
            yield block[start:]

    def encode(self, data, special):
        options = {"allowed_special": "all"} if special else {"disallowed_special": ()}
        text = data.decode("utf-8", "replace")
        return [t for part in self.parts(text) for t in self.encoding.encode(part, **options)]


# ---- a vocabulary

def train(counts, size):
    """Byte-pair encoding on pieces with counts; the most frequent pair merges first, the smaller bytes among equals."""
    words = [[bytes([b]) for b in piece] for piece in counts]
    weights = list(counts.values())
    pairs, where = collections.Counter(), collections.defaultdict(set)
    for w, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pairs[pair] += weights[w]
            where[pair].add(w)
    heap = [(-n, pair) for pair, n in pairs.items()]
    heapq.heapify(heap)
    tokens = [bytes([b]) for b in range(256)]
    known = set(tokens)
    while len(tokens) < size and heap:
        n, pair = heapq.heappop(heap)
        if pairs[pair] != -n:
            continue
        if n == 0:
            break
        merged = pair[0] + pair[1]
        changed = set()
        for w in where.pop(pair):
            word, weight = words[w], weights[w]
            for p in zip(word, word[1:]):
                pairs[p] -= weight
                changed.add(p)
            out, i = [], 0
            while i < len(word):
                if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
                    out.append(merged)
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            words[w] = out
            for p in zip(out, out[1:]):
                pairs[p] += weight
                where[p].add(w)
                changed.add(p)
        for p in changed:
            if pairs[p] > 0:
                heapq.heappush(heap, (-pairs[p], p))
        if merged not in known:
            known.add(merged)
            tokens.append(merged)
    return tokens


def count_pieces(texts):
    split = regex.compile(PATTERN, regex.V1)
    counts = collections.Counter()
    for text in texts:
        counts.update(piece.encode() for piece in split.findall(text) if len(piece) <= 64)
    return dict(sorted(counts.items()))


def write_model(directory, tokens):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tiktoken.model").write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens)))
    added = {str(len(tokens) + i): {"content": name, "special": True} for i, name in NAMES.items()}
    config = {"added_tokens_decoder": added, "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[UNK]", "pad_token": "[PAD]",
              "tokenizer_class": "TikTokenTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def dense_tokens():
    """All bytes and all pairs of bytes, in an order without pattern: any cut in another place gives other tokens."""
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    random.Random(2).shuffle(pairs)
    return [bytes([b]) for b in range(256)] + pairs


# ---- texts

SCRIPTS = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x58A), (0x591, 0x5F4),
           (0x600, 0x6FF), (0x700, 0x74F), (0x900, 0x97F), (0x980, 0x9FE), (0xA00, 0xA76), (0xB80, 0xBFA), (0xC00, 0xC7F), (0xD00, 0xD7F),
           (0xE01, 0xE5B), (0xE80, 0xEDF), (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137C),
           (0x13A0, 0x13FD), (0x1400, 0x167F), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1EFF), (0x1F00, 0x1FFE), (0x2000, 0x206F),
           (0x2070, 0x209C), (0x20A0, 0x20BF), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2C00, 0x2DFF), (0x2E80, 0x2FD5),
           (0x3000, 0x303F), (0x3041, 0x30FF), (0x3105, 0x318E), (0x31F0, 0x32FE), (0x3400, 0x3500), (0x4E00, 0x9FFC), (0xA000, 0xA48C),
           (0xA640, 0xA69F), (0xA720, 0xA7BF), (0xAC00, 0xD7A3), (0xF900, 0xFAD9), (0xFB00, 0xFB4F), (0xFE00, 0xFE4F), (0xFF01, 0xFFEE),
           (0x10330, 0x1034A), (0x10400, 0x1044F), (0x16FE0, 0x16FF1), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x1F680, 0x1F6FC),
           (0x1F900, 0x1F9FF), (0x20000, 0x2A6DD), (0x2F800, 0x2FA1D), (0xE0100, 0xE01EF)]
SPACES = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
PHRASES = ["'s", "'S", "'T", "'re", "'Ve", "'LL", "'d", "'\u017f", "\u2019s", "don't", "I'VE", "iPhone", "HTTPServer", "\r\n", "\n\n", "   ", "...",
           "!?", "123", "4567", "3.14", "\u0661\u0662\u0663\u0664", "\u00bd", "\u2160\u2161", "e\u0301", "\u3005", "\u3007", "\u4e2d\u6587", "\u65e5\u672c\u8a9e\u3067\u3059",
           "\U0001F468\u200d\U0001F469\u200d\U0001F467", "\U0001F1E8\U0001F1F3", "\u2764\ufe0f", "\U0001F44D\U0001F3FD", "<|im_end|>", "<|im_user|>", "<|im_", "[BOS]",
           "[EOS", "<|reserved_token_", "\x00", "\x7f", "\ufffd", "\u01c5", "\u02b0", "\u0130", "\ufb01"]


def random_text(rng):
    out = []
    for _ in range(rng.randint(1, 8)):
        kind = rng.random()
        if kind < 0.5:
            low, high = rng.choice(SCRIPTS)
            word = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 10)))
            out.append("".join(c for c in word if unicodedata.category(c) != "Cn"))
        elif kind < 0.65:
            out.append("".join(rng.choice(SPACES) for _ in range(rng.randint(1, 5))))
        elif kind < 0.9:
            out.append(rng.choice(PHRASES))
        else:
            out.append(rng.choice(["a", "Z", "7", " ", "\n", ".", "\u4e2d", "\u0e01", "\u0301", "\U0001F600"]) * rng.randint(1, 40))
    return "".join(out).encode()


def broken_text(rng):
    data = bytearray(random_text(rng))
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        kind = rng.random()
        if kind < 0.4:
            data[at:at + 1] = bytes([rng.randint(128, 255)])
        elif kind < 0.7:
            del data[at:at + rng.randint(1, 2)]
        else:
            data[at:at] = rng.choice([b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff", b"\x80\x80", b"\xe0\x80"])
    return bytes(data)


def long_texts(rng, most):
    for c in ["a", "A", " ", "\n", "7", ".", "\u4e2d", "\u0e01", "\u0301", "\U0001F600", "\t", "\xa0", "\x1c"]:
        for n in [63, 64, 65, 66, 1000, 24_999, 25_000, 25_001, 50_001]:
            if n <= most:
                yield (c * n).encode()
                yield ("x y" + c * n + " z").encode()
    if most >= 400_000:
        for n in [399_999, 400_000, 400_001, 812_345]:
            yield ("".join(rng.choice(["word ", "don't ", "\u4e2d\u6587", "\n"]) for _ in range(n))[:n]).encode()
    if most >= 25_000:
        yield b"x" * 24_990 + b"<|im_end|>" + b"y" * 30_000 + b"<|im_user|> z"  # a cut falls into the name of a special token


def machine_texts(rng, most):
    """Lines of translations, documentation and sources, in any order."""
    lines = []
    for path in sorted(pathlib.Path("/usr/share/locale").glob("*/LC_MESSAGES/*.mo")) + sorted(pathlib.Path("/usr/share/vim").glob("**/*.mo")):
        try:
            with path.open("rb") as file:
                lines += [v for v in gettext.GNUTranslations(file)._catalog.values() if isinstance(v, str) and v]
        except (UnicodeDecodeError, OSError, ValueError, LookupError):
            pass
    for pattern in ["/usr/share/vim/vim*/doc/*.txt", "/usr/share/vim/vim*/tutor/*.utf-8", "/usr/lib/python3*/**/*.py", "/usr/include/*.h"]:
        root, _, tail = pattern[1:].partition("*")
        base = pathlib.Path("/" + root).parent if not root.endswith("/") else pathlib.Path("/" + root)
        for path in sorted(base.glob(pattern[len(str(base)) + 1:]))[:400]:
            try:
                lines += [line for line in path.read_bytes().decode().splitlines(keepends=True) if line.strip()]
            except (UnicodeDecodeError, OSError):
                pass
    lines = sorted(set(lines))
    rng.shuffle(lines)
    return [line.encode() for line in lines[:most]]


def is_assigned(text):
    """No character that this Python does not know: PCRE2 may not know it either (see `characters`)."""
    return all(unicodedata.category(c) != "Cn" for c in text.decode("utf-8", "replace"))


# ---- comparing

def run_tool(tool, model, texts, special):
    command = [tool, str(model), "--framed"] + (["--special"] if special else [])
    out = subprocess.run(command, input=b"".join(struct.pack("<I", len(t)) + t for t in texts), stdout=subprocess.PIPE, check=True).stdout
    at = 0
    for _ in texts:
        (n,) = struct.unpack_from("<I", out, at)
        yield list(struct.unpack_from(f"<{n}i", out, at + 4))
        at += 4 + 4 * n


def compare(tool, model, texts, special, label, show=5):
    published, wrong = Published(model), []
    for text, found in zip(texts, run_tool(tool, model, texts, special)):
        if found != published.encode(text, special):
            wrong.append(text)
    mode = "special tokens parsed" if special else "as text"
    print(f"{label}, {mode}: {len(texts)} texts, {sum(map(len, texts))} bytes, {len(wrong)} differ")
    for text in wrong[:show]:
        print("   ", text[:100])
    return wrong


def agree(args):
    rng = random.Random(args.seed)
    real = machine_texts(rng, args.count // 2)
    count = max(args.count - len(real), args.count // 4)
    made = [random_text(rng) for _ in range(count * 3 // 4)]
    broken = [broken_text(rng) for _ in range(count - len(made))]
    real, made, broken = ([t for t in texts if is_assigned(t)] for texts in (real, made, broken))
    print(f"{len(real)} real, {len(made)} generated, {len(broken)} broken")
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        dense = pathlib.Path(folder) / "dense"
        write_model(dense, dense_tokens())
        for model in [DATA, dense, *args.model]:
            texts = real + made + broken + list(long_texts(rng, 10**6))
            for special in [False, True]:
                differ += len(compare(args.tool, model, texts, special, model.name))
    return differ


def characters(args):
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    around = ["a", "A", " ", "7", ".", "\n", "\u4e2d", "\u0301", "\u0e01", "!\n"]
    texts = ["".join(f"{x}{chr(c)}{x}{chr(c)}{chr(c)}" for x in around).encode() for c in codes]
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder) / "dense"
        write_model(model, dense_tokens())
        wrong = {ord(t.decode()[1]) for t in compare(args.tool, model, texts, False, "all characters", show=0)}
    ranges = []
    for c in sorted(wrong):
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    print("differ:", ", ".join(f"U+{a:04X}" if a == b else f"U+{a:04X}..U+{b:04X}" for a, b in ranges) or "none")
    unassigned = sum(unicodedata.category(chr(c)) == "Cn" for c in wrong)
    print(f"{unassigned} of them unassigned in Unicode {unicodedata.unidata_version}")
    return len(wrong) - unassigned


def fixtures(_):
    text = (DATA / "text.txt").read_text()
    write_model(DATA, train(count_pieces([text]), 1280))
    published, rng = Published(DATA), random.Random(3)
    texts = [p.encode() for p in PHRASES] + [b""] + [line.encode() for line in text.split("\n\n")]
    texts += [random_text(rng) for _ in range(150)] + [broken_text(rng) for _ in range(80)] + list(long_texts(rng, 100))
    cases = [{"bytes": t.hex(), "text": published.encode(t, False), "special": published.encode(t, True)} for t in texts]
    (DATA / "expected.json").write_text('{"cases": [\n' + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]}\n")
    print(len(cases), "cases")
    return 0


def train_files(args):
    texts = []
    for path in args.files:
        data = gzip.open(path).read() if path.endswith(".gz") else pathlib.Path(path).read_bytes()
        texts.append(data.decode("utf-8", "replace"))
    tokens = train(count_pieces(texts), args.size)
    write_model(args.out, tokens)
    print(len(tokens), "tokens")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train")
    command.add_argument("--size", type=int, required=True)
    command.add_argument("--out", type=pathlib.Path, required=True)
    command.add_argument("files", nargs="+")
    command.set_defaults(run=train_files)
    commands.add_parser("fixtures").set_defaults(run=fixtures)
    command = commands.add_parser("agree")
    command.add_argument("--tool", required=True)
    command.add_argument("--count", type=int, default=120_000)
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--model", type=pathlib.Path, action="append", default=[], help="another vocabulary to compare with")
    command.set_defaults(run=agree)
    command = commands.add_parser("characters")
    command.add_argument("--tool", required=True)
    command.set_defaults(run=characters)
    args = parser.parse_args()
    sys.exit(1 if args.run(args) else 0)


if __name__ == "__main__":
    main()
