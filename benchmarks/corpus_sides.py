"""What the processes of `benchmarks.corpus` run: a program for each thing that is measured.

They go with this tree and with older ones: what they call was there from the start.
"""

from __future__ import annotations

#: arguments: file, threshold of near duplicates, then "" or a file of items, "" or a model of language_check
CLEAN = """
import json, sys, time
from collections import Counter, deque
from unicodedata import normalize
from lrnb.data import clean
rule = ("Bengali", 0.5, float(sys.argv[2]))
list(clean(["নদীর ধারে একটি ছোট গ্রাম " * 20, "অন্য একটি লেখা " * 20], *rule, Counter()))
options = {}
if sys.argv[3]:
    from lrnb.data.contamination import Items
    options["items"] = Items({"made": json.load(open(sys.argv[3], encoding="utf-8"))})
if sys.argv[4]:
    from lrnb.data import language_checks
    options["language"] = language_checks(sys.argv[4], {"bn": "Bengali"})["bn"]
list(clean(["নদীর ধারে একটি ছোট গ্রাম " * 20], *rule, Counter(), **options))
def rows():
    return map(json.loads, open(sys.argv[1], encoding="utf-8"))
started, clock = time.process_time(), time.perf_counter()
kept = deque(hash(text) for text in clean((row["text"] for row in rows()), *rule, Counter(), **options))
found = {"cpu_seconds": time.process_time() - started, "clock": time.perf_counter() - clock}
found["kept"] = len(kept)
dropped = Counter()
for row in rows():  # in their order: what is not the next that was kept was dropped
    if kept and kept[0] == hash(normalize("NFC", row["text"]).strip()):
        kept.popleft()
    else:
        dropped[row["kind"]] += 1
assert not kept
print(json.dumps(found | {"dropped": dropped}))
"""
#: arguments: file, folder for its output
DATATROVE = """
import json, shutil, sys, time
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
config = MinhashConfig(hash_config=HashConfig(precision=64), num_buckets=10, hashes_per_bucket=6, n_grams=5)
step = MinhashDedupSignature(sys.argv[2], config=config, language="ben_Beng")
rows = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
list(map(step.get_signature, map(step.get_shingles, rows[:50])))
started = time.process_time()
for text in rows:
    step.get_signature(step.get_shingles(text))
print(json.dumps({"cpu_seconds": time.process_time() - started}))
"""
#: arguments: file, tokenizer.json, file to pack to; the least of three times each, on the first 12 MB
TOKENS = """
import json, sys, time
from collections import Counter
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from lrnb.data import pack, passes, replay, tokenize, write_packed
cut = PreTrainedTokenizerFast(tokenizer_file=sys.argv[2], bos_token="<s>", eos_token="</s>")
rows, size = [], 0
for line in open(sys.argv[1], encoding="utf-8"):
    rows.append(json.loads(line)["text"])
    size += len(rows[-1].encode())
    if size > 12e6:
        break
def tokens():
    return sum(map(len, tokenize(cut, iter(rows))))
def packed():
    ids = replay(passes(tokenize(cut, iter(rows)), 1, 0, Counter(), "x"), iter(()), 0, Counter())
    return write_packed(pack(ids, 256), Path(sys.argv[3]), 10**9)
def least(work):
    times = []
    for _ in range(3):
        started, worked = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - started, time.process_time() - worked))
    return [min(own) for own in zip(*times)]
(cutting, cutting_cpu), (packing, packing_cpu) = least(tokens), least(packed)
print(json.dumps({"bytes": size, "cutting": cutting, "cutting_cpu": cutting_cpu,
                  "packing": packing, "packing_cpu": packing_cpu}))
"""
#: arguments: file, tokenizer.json, folder; cuts the first 12 MB twice, the second time from what is kept
RESUMED = """
import json, sys, time
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from lrnb.data import token_pieces, tokenize
token_pieces.ENOUGH = 1 << 18
cut = PreTrainedTokenizerFast(tokenizer_file=sys.argv[2], bos_token="<s>", eos_token="</s>")
rows, size = [], 0
for line in open(sys.argv[1], encoding="utf-8"):
    rows.append(json.loads(line)["text"])
    size += len(rows[-1].encode())
    if size > 12e6:
        break
found = {"bytes": size}
for name in ("first_cpu", "again_cpu"):
    started = time.process_time()
    found["tokens"] = sum(map(len, tokenize(cut, iter(rows), kept=Path(sys.argv[3]))))
    found[name] = time.process_time() - started
found["on_disk"] = sum(path.stat().st_size for path in Path(sys.argv[3]).iterdir())
print(json.dumps(found))
"""
#: arguments: a packed file
OPEN = """
import json, os, sys, time
from pathlib import Path
import numpy as np
from lrnb.training.pretraining import packed_rows
def held():
    words = Path("/proc/self/status").read_text().split()
    return 1024 * int(words[words.index("RssAnon:") + 1])
before, started = held(), time.perf_counter()
rows = packed_rows(Path(sys.argv[1]))
seconds, bytes_ = time.perf_counter() - started, held() - before
places = np.random.default_rng(0).integers(len(rows), size=1000).tolist()
started = time.perf_counter()
for place in places:
    rows[place]
print(json.dumps({"rows": len(rows), "opening": seconds, "held": bytes_,
                  "a_row": (time.perf_counter() - started) / len(places)}))
"""
