// An element of ours inside a node, and on the subgraph nodes around it.
import { outerNodes } from "./graph.js";

const MARGIN = 10;
const PROMOTED = "preview"; // the type of widget that older pages show on a subgraph node too
const OWN = "dummyforcing";
const CLOSED = "dummyforcing-closed";

// On the classic canvas a widget's frame takes clicks, also on what lies below a node whose widget has no height.
const style = document.head.appendChild(document.createElement("style"));
style.textContent = `.dom-widget:has(> .${CLOSED}){pointer-events:none!important}`;

// An element inside a node, closed at first. `height()` is what it needs in pixels. Returns a function that opens or
// closes it; opened again, it gets the room that it needs by now.
export function addElement(node, name, element, height) {
  let open = false;
  const room = () => (open ? height() + 2 * MARGIN : 0);
  const inside = placeIn(node, name, element, room);
  // Newer pages take a "preview" for one of their own, of the node's output, and show that outside instead.
  const type = () => (outerNodes(node).some(ownsWidgets) ? OWN : PROMOTED);
  Object.defineProperty(inside.widget, "type", { get: type, set() {}, configurable: true, enumerable: true });
  let outside = [];
  element.classList.add(CLOSED);
  // Colours of the user's palette.
  element.style.cssText += ";display:none;flex-direction:column;gap:4px;font:12px sans-serif;color:var(--input-text,#ccc)";

  return (wanted) => {
    if (!open && !wanted) return;
    const [before, opens] = [room(), !open];
    open = wanted;
    element.style.display = open ? "flex" : "none";
    element.classList.toggle(CLOSED, !open);
    element.style.minHeight = `${open ? height() : 0}px`;
    if (opens) outside = outerNodes(node).filter(ownsWidgets).map((outer) => placeIn(outer, name, element, room));
    if (open) for (const place of [inside, ...outside]) place.grow();
    else {
      inside.shrink();
      for (const place of outside) place.remove();
      // Older pages make a subgraph node grow by themselves, and leave it large.
      for (const outer of outerNodes(node)) {
        if (!ownsWidgets(outer)) resize(outer, Math.max(-before, outer.computeSize()[1] - outer.size[1]));
      }
    }
  };
}

// Whether a subgraph node takes widgets, as in newer pages, or shows only what it promotes.
const ownsWidgets = (outer) => outer.addCustomWidget !== LGraphNode.prototype.addCustomWidget;

// A widget that holds the element in one node. Where two nodes have one, the element is in the one that is seen.
function placeIn(node, name, element, room) {
  let grown = 0; // by how much the node had to
  const widget = node.addDOMWidget(name, OWN, element, {
    serialize: false, // not in the prompt
    hideOnZoom: false,
    hideInPanel: true, // it is to be seen, there is nothing to set
    margin: MARGIN,
    getMinHeight: room,
    getMaxHeight: () => (room() ? Number.MAX_SAFE_INTEGER : 0),
  });
  widget.serialize = false; // not in the saved workflow
  return {
    widget,
    grow() {
      void node.widgets; // a subgraph node of Nodes 2.0 sees its new widget when it is asked
      const missing = Math.max(node.computeSize()[1] - node.size[1], 0); // a tall node has the room already
      grown += missing;
      resize(node, missing);
    },
    shrink() {
      resize(node, -grown);
      grown = 0;
    },
    remove() {
      node.removeWidget(widget);
      void node.widgets;
      this.shrink();
    },
  };
}

// Only its height: the width that a node asks for grows with the width that it has.
function resize(node, change) {
  node.setDirtyCanvas?.(true, true);
  if (LiteGraph.vueNodesMode || change === 0) return; // Nodes 2.0 measures what is in a node
  node.setSize([node.size[0], node.size[1] + change]);
}
