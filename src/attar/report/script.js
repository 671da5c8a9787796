"use strict";
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

for (const film of document.querySelectorAll("[data-film]")) {
  const { steps, columns } = JSON.parse(film.dataset.film);
  const sheets = [...film.querySelectorAll(".sheet")];
  const tiles = [...film.querySelectorAll("canvas")];
  const scrubber = film.querySelector(".scrubber");
  const button = film.querySelector(".play");
  const output = film.querySelector(".step");
  const charts = [...document.querySelectorAll("#synthesis [data-readout]")];
  const last = steps.length - 1;
  let timer = 0;

  const show = (frame) => {
    const sheet = sheets[frame];
    const width = sheet.naturalWidth / columns;
    const height = sheet.naturalHeight / Math.ceil(tiles.length / columns);
    tiles.forEach((tile, i) => {
      if (tile.width !== width || tile.height !== height) Object.assign(tile, { width, height });
      const x = (i % columns) * width, y = Math.floor(i / columns) * height;
      tile.getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height);
    });
    scrubber.value = frame;
    const text = "step " + steps[frame].toLocaleString("en");
    output.textContent = text;
    scrubber.setAttribute("aria-valuetext", text);
    film.dataset.frame = frame;
    for (const chart of charts) mark(chart, (chart.dataset.home = steps[frame]));
  };
  const pause = () => {
    clearInterval(timer);
    timer = 0;
    film.classList.remove("playing");
    button.setAttribute("aria-label", "Play");
  };
  const play = () => {
    if (Number(scrubber.value) === last) show(0);
    film.classList.add("playing");
    button.setAttribute("aria-label", "Pause");
    timer = setInterval(() => {
      if (Number(scrubber.value) < last) show(Number(scrubber.value) + 1);
      else pause();
    }, Math.max(60, Math.min(250, 5000 / steps.length)));
  };

  button.addEventListener("click", () => (timer ? pause() : play()));
  scrubber.addEventListener("input", () => { pause(); show(Number(scrubber.value)); });
  Promise.all(sheets.map((sheet) => sheet.decode())).then(() => {
    show(last);
    film.dataset.ready = "";
    if (still) return;
    const seen = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return;
      seen.disconnect();
      if (!timer && Number(scrubber.value) === last) play();
    }, { threshold: 0.5 });
    seen.observe(film);
  });
  addEventListener("beforeprint", () => { pause(); show(last); });
}

function mark(chart, step) {
  const { low, high, unit, series } = JSON.parse(chart.dataset.readout);
  const line = chart.querySelector(".cursor");
  const x = Math.min(100, Math.max(0, (100 * (step - low)) / (high - low))) + "%";
  line.setAttribute("x1", x);
  line.setAttribute("x2", x);
  line.setAttribute("visibility", "visible");
  const near = (points) => points.reduce((a, b) => (Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a));
  const parts = series.map(({ name, points }) => (name ? name + " " : "") + near(points)[1]);
  chart.querySelector(".readout").textContent = unit + " " + Math.round(step) + ": " + parts.join(", ");
}

for (const chart of document.querySelectorAll("[data-readout]")) {
  const plot = chart.querySelector(".plot > svg");
  const { low, high } = JSON.parse(chart.dataset.readout);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    mark(chart, low + share * (high - low));
  });
  plot.addEventListener("pointerleave", () => {
    if (chart.dataset.home) return mark(chart, Number(chart.dataset.home));
    chart.querySelector(".cursor").setAttribute("visibility", "hidden");
    chart.querySelector(".readout").textContent = "";
  });
}

const copied = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
};
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await copied(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

const boxes = [...document.querySelectorAll(".scroll")];
const measure = () => boxes.forEach((box) => box.classList.toggle("wider", box.scrollWidth > box.clientWidth + 4));
document.addEventListener("toggle", measure, true);
addEventListener("resize", measure);
measure();

const unfold = () => {
  const section = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  const folded = section && section.querySelector(":scope > details");
  if (folded) folded.open = true;
};
addEventListener("hashchange", unfold);
for (const link of document.querySelectorAll(".contents a")) link.addEventListener("click", () => setTimeout(unfold));
unfold();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((folded) => (folded.open = true)));
