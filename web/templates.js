// The server lists a pack's templates in the order of its disk; the template browser shows them in the order of the list.
import { app } from "../../scripts/app.js";

const FIRST = "1 Demo clip, nothing to download"; // by which our pack is known, whatever its folder is called

app.registerExtension({
  name: "dummyforcing.templates",
  init() {
    const ask = app.api.getWorkflowTemplates;
    app.api.getWorkflowTemplates = async function () {
      const packs = await ask.apply(this, arguments);
      for (const names of Object.values(packs)) if (names.includes(FIRST)) names.sort();
      return packs;
    };
  },
});
