// plotly's module for its figures, loaded once a page instead of once a figure.
// anywidget gives a figure two seconds to load, and drops every message to one that took longer. Such a figure
// listens without anywidget from then on, and is begun anew with what the kernel holds at present.

const PROBE = { content: { data: { method: "custom", content: {} } }, buffers: [] };

async function load(model) {
  const held = await model.widget_manager.get_model(model.get("_code").replace("IPY_MODEL_", ""));
  return import(URL.createObjectURL(new Blob([held.get("text")], { type: "text/javascript" })));
}

async function listen(model) {
  const whole = await model.widget_manager.get_model(model.get("_own_id"));
  if (!whole.comm) return true; // a saved page, without a kernel
  const heard = await whole._handle_comm_msg(PROBE).then(() => true, () => false);
  if (!heard) {
    const handle = Object.getPrototypeOf(Object.getPrototypeOf(whole))._handle_comm_msg;
    whole.comm.on_msg((message) => handle.call(whole, message));
  }
  return heard;
}

function present(model) {
  return new Promise((done) => {
    model.on("msg:custom", done);
    model.send("present");
  });
}

export default () => {
  const views = new Set();
  let bundle, held, plotly, mended;
  const begin = () => {
    plotly = bundle.default();
    plotly.initialize({ model: held });
  };
  const draw = (view) => {
    view.clean = plotly.render({ model: held, el: view.el });
  };
  const mend = async () => {
    if (await listen(held)) return;
    await present(held);
    held.off();
    views.forEach((view) => view.clean());
    begin();
    views.forEach(draw);
  };
  return {
    async initialize({ model }) {
      held = model;
      const loading = (globalThis.lrnbPlotly ??= load(model));
      loading.catch(() => delete globalThis.lrnbPlotly); // the next figure tries again
      bundle = await loading;
      begin();
    },
    render({ el }) {
      const view = { el };
      views.add(view);
      draw(view);
      mended ??= mend();
      return () => {
        views.delete(view);
        view.clean();
      };
    },
  };
};
