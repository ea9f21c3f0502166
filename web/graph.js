// Nodes and elements on the open page, in both looks of a node and inside subgraphs.
import { app } from "../../scripts/app.js";

const MARGIN = 10;

// The server names a node by its path: "12:5" is node 5 of subgraph node 12.
export function findNode(executionId) {
  const path = String(executionId).split(":");
  const last = path.pop();
  let graph = app.rootGraph ?? app.graph;
  for (const id of path) graph = graph?.getNodeById(id)?.subgraph;
  return graph?.getNodeById(last);
}

// Saved outputs name it by the definition of its subgraph: "<uuid>:5".
export function findNodeByLocator(locator) {
  const path = String(locator).split(":");
  const root = app.rootGraph ?? app.graph;
  const graph = path.length > 1 ? root.subgraphs?.get(path[0]) : root;
  return graph?.getNodeById(path.at(-1));
}

// An element inside a node, closed at first. `height()` is what it needs in pixels. Returns a function that opens or
// closes it.
export function addElement(node, name, element, height) {
  let open = false;
  const room = () => (open ? height() + 2 * MARGIN : 0);
  // The type makes a subgraph show it outside too.
  const widget = node.addDOMWidget(name, "preview", element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: room,
    getMaxHeight: () => (open ? Number.MAX_SAFE_INTEGER : 0),
  });
  widget.serialize = false; // not in the saved workflow
  element.style.display = "none";

  return (wanted) => {
    if (open === wanted) return;
    const before = room();
    open = wanted;
    element.style.display = open ? "flex" : "none";
    element.style.minHeight = `${open ? height() : 0}px`;
    const least = node.computeSize();
    node.setSize([Math.max(node.size[0], least[0]), Math.max(node.size[1] + room() - before, least[1])]);
    node.setDirtyCanvas?.(true, true);
  };
}
