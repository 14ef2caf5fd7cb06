// TIES and TIES-SV on six numbers, as lrnb.merging.by_hand.steps has them: the same names and results, with
// null for NaN. A half is rounded to the even neighbour, as Python rounds it.

const PLACES = NUMBERS.names.map((_, i) => i);
const sum = xs => xs.reduce((a, b) => a + b, 0);

function roundHalfEven(x) {
  const down = Math.floor(x), rest = x - down;
  return rest > 0.5 || (rest === 0.5 && down % 2 === 1) ? down + 1 : down;
}

function smallestKept(tau, kept) {
  return tau.map(Math.abs).sort((a, b) => b - a)[kept - 1];
}

function elect(ct, sft, weight) {
  const total = PLACES.map(i => ct[i] + weight * sft[i]);
  const zero = sum(total.map(Math.sign)) > 0 ? 1 : -1;  // a sum of exactly 0: the sign elected more often
  return {total, gamma: total.map(x => Math.sign(x) || zero)};
}

function meanOfWinners(ct, sft, weight, gamma) {
  return PLACES.map(i => {
    const winners = [[ct[i], 1], [sft[i], weight]].filter(([x]) => x * gamma[i] > 0);
    return winners.length ? sum(winners.map(([x, w]) => x * w)) / sum(winners.map(([, w]) => w)) : 0;
  });
}

function steps({kept = 5, weight = 1, lam = 1, slack = 0} = {}) {
  const thresholds = [NUMBERS.ct, NUMBERS.sft].map(tau => smallestKept(tau, kept));
  const [ct, sft] = [NUMBERS.ct, NUMBERS.sft].map(
    (tau, parent) => tau.map(x => Math.abs(x) >= thresholds[parent] ? x : 0));
  const {total, gamma: before} = elect(ct, sft, weight);
  const defeats = PLACES.filter(i => ct[i] * sft[i] < 0 && sft[i] * before[i] < 0);
  const delta = PLACES.map(i => defeats.includes(i) ? Math.abs(total[i]) : null);
  const back = defeats.sort((i, j) => delta[i] - delta[j]).slice(0, roundHalfEven(slack * defeats.length));
  const reserved = PLACES.map(i => back.includes(i));
  const gamma = PLACES.map(i => reserved[i] ? -before[i] : before[i]);
  const mean = meanOfWinners(ct, sft, weight, gamma);
  const lost = tau => PLACES.map(i => tau[i] * gamma[i] < 0);
  return {ct, sft, thresholds, sign: mean.map(Math.sign), ct_lost: lost(ct), sft_lost: lost(sft), delta,
          reserved, tau: mean.map(x => lam * x)};
}

// What a section shows: the steps up to `level`. 0: task vectors, 1: trimmed, 2: elected, 3: merged, 4: slack.

const two = x => x === null ? "" : x.toFixed(2).replace("-", "−");
const listed = marks => PLACES.filter(i => marks[i]).map(i => NUMBERS.names[i]).join(", ") || "none";
const signOf = x => ({1: "+", "-1": "−"})[x] || "0";

const marginsOf = s => `δ: ${PLACES.filter(i => s.delta[i] !== null).sort((i, j) => s.delta[i] - s.delta[j])
  .map(i => `${NUMBERS.names[i]} ${two(s.delta[i])}`).join(", ") || "no defeats"}.`;

const TOLD = {
  trim: s => `Threshold of CT ${two(s.thresholds[0])}, of SFT ${two(s.thresholds[1])}. ` +
    `Trimmed of CT: ${listed(s.ct.map(x => !x))}; of SFT: ${listed(s.sft.map(x => !x))}.`,
  elect: s => `SFT loses: ${listed(s.sft_lost)}. CT loses: ${listed(s.ct_lost)}.`,
  merge: s => `Merged τ: ${PLACES.map(i => `${NUMBERS.names[i]} ${two(s.tau[i])}`).join(", ")}.`,
  slack: s => `${marginsOf(s)} Won back: ${listed(s.reserved)} (ξ, the largest δ won back: ` +
    `${two(Math.max(0, ...PLACES.filter(i => s.reserved[i]).map(i => s.delta[i])))}). ` +
    `SFT loses: ${listed(s.sft_lost)}. CT loses: ${listed(s.ct_lost)}.`,
  together: s => ["trim", "slack", "merge"].map(step => TOLD[step](s)).join(" "),
};

function rows(s, level) {
  const marks = (lost, word) => lost.map(x => x ? word : "");
  return [
    ["base", NUMBERS.base.map(two)], ["τ CT", NUMBERS.ct.map(two)], ["τ SFT", NUMBERS.sft.map(two)],
    ...level < 1 ? [] : [["CT, trimmed", s.ct.map(two)], ["SFT, trimmed", s.sft.map(two)]],
    ...level < 2 ? [] : [["sign", s.sign.map(signOf)], ["CT loses", marks(s.ct_lost, "lost")],
                         ["SFT loses", marks(s.sft_lost, "lost")]],
    ...level < 4 ? [] : [["δ", s.delta.map(two)], ["won back", marks(s.reserved, "back")]],
    ...level < 3 ? [] : [["λ · merged τ", s.tau.map(two)],
                         ["merged", s.tau.map((x, i) => two(NUMBERS.base[i] + x))]],
  ];
}

function fillTable(table, s, level) {
  const head = table.createTHead();
  head.replaceChildren();
  table.tBodies[0]?.remove();
  const line = (place, name, cells, tag) => {
    const row = place.insertRow();
    const first = row.appendChild(document.createElement("th"));
    first.textContent = name;
    first.scope = tag === "th" ? "col" : "row";
    for (const cell of cells) row.appendChild(document.createElement(tag)).textContent = cell;
  };
  line(head, "entry", NUMBERS.names, "th");
  const body = table.createTBody();
  for (const [name, cells] of rows(s, level)) line(body, name, cells, "td");
}

// the bars

const HIGH = 300, TOP = 1.3, LEFT = 40;

function svg(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function lookOf(parent, i, s, level) {
  const own = `var(--${parent})`;
  if (level >= 4 && parent === "sft" && s.reserved[i]) return {fill: own, stroke: "var(--reserved)", "stroke-width": 4};
  if (level >= 1 && !s[parent][i]) return {fill: "var(--paper)", stroke: "var(--faint)"};
  if (level >= 2 && s[`${parent}_lost`][i]) return {fill: `url(#lost-${parent})`, stroke: own};
  return {fill: own, stroke: own};
}

function canvas(width, label) {
  const picture = svg("svg", {height: HIGH, viewBox: `0 0 ${width} ${HIGH}`, role: "img", "aria-label": label});
  const group = (width - LEFT) / 6, bar = group / 4, y = x => 24 + (HIGH - 40) * (TOP - x) / (2 * TOP);
  const left = (i, place) => LEFT + group * i + (place + 0.5) * bar;
  const add = (tag, attributes, text) => picture.appendChild(svg(tag, attributes, text));
  const words = (x, at, text, look) => add("text", {x, y: at, "text-anchor": "middle", ...look}, text);
  return {
    picture,
    level: (x, look, from = LEFT, to = width) => add("line", {x1: from, x2: to, y1: y(x), y2: y(x), ...look}),
    tick: x => words(LEFT - 6, y(x) + 4, x.toFixed(1).replace("-", "−"), {"text-anchor": "end"}),
    box: (i, place, x, look) => add("rect",
      {x: left(i, place), width: bar, y: y(Math.max(0, x)), height: Math.abs(y(x) - y(0)), ...look}),
    notch(i, place, x) {
      this.level(x, {stroke: "var(--ink)", "stroke-width": 3}, left(i, place) - 2, left(i, place + 1) + 2);
    },
    value: (i, x) => words(left(i, 2.5), y(x) + (x > 0 ? -4 : 13), two(x), {"font-size": 11}),
    above: (i, text) => words(left(i, 1.5), 18, text, {"font-size": 18, "font-weight": 700}),
    below: (i, text) => words(left(i, 1.5), HIGH - 4, text),
  };
}

function drawEntry(on, i, s, level, weight) {
  on.box(i, 0, NUMBERS.ct[i], lookOf("ct", i, s, level));
  on.box(i, 1, NUMBERS.sft[i], lookOf("sft", i, s, level));
  on.below(i, NUMBERS.names[i]);
  if (level >= 2) on.above(i, signOf(s.sign[i]));
  if (level >= 2 && weight !== 1 && s.sft[i]) on.notch(i, 1, weight * s.sft[i]);
  if (level >= 3 && s.tau[i]) {
    on.box(i, 2, s.tau[i], {fill: "var(--ink)"});
    on.value(i, s.tau[i]);
  }
}

function drawThresholds(on, s) {
  ["ct", "sft"].forEach((parent, place) => [-1, 1].forEach(up => on.level(up * s.thresholds[place],
    {stroke: `var(--${parent})`, "stroke-width": 2, "stroke-dasharray": "6 4"})));
}

function draw(plot, name, s, level, weight, label) {
  if (!plot.clientWidth) return;  // in a section that has not appeared yet
  const on = canvas(plot.clientWidth, label);
  for (const x of [-1, -0.5, 0, 0.5, 1]) {
    on.level(x, {stroke: x ? "var(--rule)" : "var(--faint)"});
    on.tick(x);
  }
  for (const i of PLACES) drawEntry(on, i, s, level, weight);
  if (name === "trim" && level === 1) drawThresholds(on, s);
  if (name === "elect" && level === 1) for (const i of PLACES) on.above(i, "?");
  plot.replaceChildren(on.picture);
}

// sections: a guess, then sliders; one appears when the guess of the one before it is made

const LEVELS = {trim: 1, elect: 2, merge: 3, slack: 4, together: 4};

function section(name) {
  const root = document.getElementById(name), find = css => root.querySelector(css);
  const inputs = [...root.querySelectorAll("input")];
  let open = false;
  const show = () => {
    for (const input of inputs) input.nextElementSibling.value = input.value;
    const given = Object.fromEntries(inputs.map(input => [input.name, Number(input.value)]));
    const s = steps(open ? given : {...given, slack: 0}), level = LEVELS[name] - (open ? 0 : 1);
    const told = open ? TOLD[name](s) : name === "slack" ? marginsOf(s) : "";
    find(".told").textContent = told;
    fillTable(find("table"), s, level);
    draw(find(".plot"), name, s, level, given.weight ?? 1, `Six entries as bars. ${told || "Guess first."}`);
  };
  const reveal = () => {
    open = true;
    find(".controls").disabled = false;
    for (const [css, hidden] of [[".why", true], [".after", false]])
      for (const each of root.querySelectorAll(css)) each.hidden = hidden;
    show();
  };
  for (const input of inputs) input.addEventListener("input", show);
  new ResizeObserver(show).observe(find(".plot"));
  return {root, find, reveal};
}

const SECTIONS = Object.fromEntries(Object.keys(LEVELS).map(name => [name, section(name)]));

function appear(name) {
  SECTIONS[name].root.hidden = false;
  if (name === "together") {
    SECTIONS.together.reveal();
    document.getElementById("skip").hidden = true;
  }
}

function guessed(name, button) {
  const {root, find, reveal} = SECTIONS[name], {answer, hint} = GUESSES[name];
  for (const each of root.querySelectorAll(".guess button"))
    each.setAttribute("aria-pressed", String(each === button));
  find(".said").textContent = (button.textContent === answer ? "Right. " : `Not so: ${answer}. `) + `Now ${hint}`;
  reveal();
  const names = Object.keys(LEVELS);
  appear(names[names.indexOf(name) + 1]);
}

for (const name of Object.keys(GUESSES))
  for (const button of SECTIONS[name].root.querySelectorAll(".guess button"))
    button.addEventListener("click", () => guessed(name, button));
document.querySelector("#skip button").addEventListener("click", () => Object.keys(LEVELS).forEach(appear));
