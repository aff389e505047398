/* What must outlive the page: unfinished edits ("drafts") and verdicts the server has not confirmed ("kept"), in this browser's IndexedDB.
   Each stands under the folder of predictions, the reviewer and the case, so that neither of two is taken for the other's. */
const NAMES = ["drafts", "kept"];
let opened = null;

function database() {
  opened ||= new Promise((done, failed) => {
    const asked = indexedDB.open("ocuseg-review", 1);
    asked.onupgradeneeded = () => NAMES.forEach((name) => asked.result.createObjectStore(name));
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
  });
  return opened;
}
async function run(name, mode, ask) {
  const transaction = (await database()).transaction(name, mode);
  const asked = ask(transaction.objectStore(name));
  return new Promise((done, failed) => {
    transaction.oncomplete = () => done(asked.result);
    transaction.onabort = transaction.onerror = () => failed(transaction.error);
  });
}

/* ``name`` is "drafts" or "kept"; ``who`` [folder, reviewer]. */
export function store(name, who) {
  const key = (of) => JSON.stringify([...who, of]), all = IDBKeyRange.bound(JSON.stringify([...who, ""]).slice(0, -3), JSON.stringify(who).slice(0, -1) + ",\uffff");
  return {
    put: (of, value) => run(name, "readwrite", (table) => table.put(value, key(of))),
    get: (of) => run(name, "readonly", (table) => table.get(key(of))),
    drop: (of) => run(name, "readwrite", (table) => table.delete(key(of))),
    all: () => run(name, "readonly", (table) => table.getAll(all)),
  };
}
