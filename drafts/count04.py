import sys,re,statistics; sys.path[:0]=["tests/book","book/tools","."]
import nbformat
p="notebooks/04_features.ipynb"; H={"hide-input","remove-input","remove-cell","hide-cell"}
nb=nbformat.read(p,4).cells
vis=[c.source.splitlines() for c in nb if c.cell_type=="code" and not H&set(c.metadata.get("tags",[]))]
hid=[c.source.splitlines() for c in nb if c.cell_type=="code" and H&set(c.metadata.get("tags",[]))]
n=0
for c in nb:
    ts=[c.source] if c.cell_type=="markdown" else ["".join(o.data["text/markdown"]) for o in c.get("outputs",[]) if "text/markdown" in o.get("data",{})]
    for t in ts:
        t=re.sub(r"```python.*?```|<details>.*?</details>|\$\$.*?\$\$","",t,flags=re.S)
        n+=len(re.findall(r"[\w’'-]*[A-Za-z]{2,}[\w’'-]*",t))
v=sum(map(len,vis)); 
print("words",n,"visible",v,"hidden",sum(map(len,hid)),"minutes",n/220+v/15)
print("median all",statistics.median(map(len,vis+hid)),"vis",statistics.median(map(len,vis)),max(map(len,vis)),max(map(len,vis+hid)))
print([l for c in vis for l in c if len(l)>77]); print([l for c in hid for l in c if len(l)>100])
