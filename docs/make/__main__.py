"""``python -m docs.make``: write everything that is made from the code."""

from docs.make import ROOT, files

for path, text in files().items():
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
