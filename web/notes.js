// The notes of our templates, in letters that are read at the zoom at which a template opens.
import { app } from "../../scripts/app.js";
import { allNodes } from "./graph.js";

const SIZE = "14px";
const VARIABLE = "--comfy-textarea-font-size"; // the page's, by which it scales the headings too

const style = document.head.appendChild(document.createElement("style"));

function update() {
  const notes = allNodes().filter((node) => node.properties?.dummyforcing === "note");
  // In Nodes 2.0.
  style.textContent = notes
    .map((node) => `[data-node-id="${node.id}"] .comfy-markdown-content{${VARIABLE}:${SIZE};font-size:${SIZE}}`)
    .join("\n");
  // On the classic canvas.
  for (const node of notes) node.widgets?.[0]?.element?.style.setProperty(VARIABLE, SIZE);
}

app.registerExtension({ name: "dummyforcing.notes", afterConfigureGraph: update });
