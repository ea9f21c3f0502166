// The choices of our lists, in the page's language; what is saved and sent stays as it is.
import { app } from "../../scripts/app.js";
import { choice } from "./texts.js";

app.registerExtension({
  name: "dummyforcing.choices",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("DummyForcing")) return;
    for (const widget of node.widgets ?? []) if (widget.type === "combo") widget.options.getOptionLabel ??= choice;
  },
});
