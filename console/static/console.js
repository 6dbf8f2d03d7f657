// What pages need beside htmx: charts, copying, and rows that close again. Without it every page still
// works; the numbers of a chart stand in the table below it.
'use strict';

(() => {
  const color = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = n => Math.abs(n) >= 1e9 ? +(n / 1e9).toPrecision(3) + 'G' : Math.abs(n) >= 1e6 ? +(n / 1e6).toPrecision(3) + 'M'
    : Math.abs(n) >= 1e3 ? +(n / 1e3).toPrecision(3) + 'k' : String(n);
  const drawn = new Map();

  function draw(box) {
    drawn.get(box)?.destroy();
    const chart = JSON.parse(box.dataset.chart);
    const pad = n => String(n).padStart(2, '0');
    const clock = (at, days) => {
      const d = new Date(at * 1e3), day = pad(d.getUTCMonth() + 1) + '-' + pad(d.getUTCDate());
      return days || d.getUTCHours() + d.getUTCMinutes() === 0 ? day : pad(d.getUTCHours()) + ':' + pad(d.getUTCMinutes());
    };
    const axis = { stroke: color('--faint'), grid: { stroke: color('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui' };
    const numbers = { ...axis, size: 52, values: (_, at) => at.map(short) };
    const line = (s, i) => ({
      label: s.label, scale: i < 2 ? 'tokens' : 'calls', stroke: color(['--in', '--out', '--refused'][i]), width: 2,
      fill: i < 2 ? color(['--in', '--out'][i]) + '22' : undefined, points: { show: chart.times.length < 2 },
      dash: i < 2 ? undefined : [4, 4], value: (_, v) => v == null ? '–' : v.toLocaleString('en'),
    });
    drawn.set(box, new uPlot({
      width: box.clientWidth, height: 240, tzDate: at => uPlot.tzDate(new Date(at * 1e3), 'UTC'), cursor: { y: false },
      scales: { tokens: { range: (_, __, max) => [0, max || 1] }, calls: { range: (_, __, max) => [0, Math.max(max, 4)] } },
      series: [{ label: 'UTC', value: '{YYYY}-{MM}-{DD} {HH}:{mm}' }, ...chart.series.map(line)],
      axes: [{ ...axis, values: (_, at, __, ___, step) => at.map(t => clock(t, step >= 86400)) }, { ...numbers, scale: 'tokens' }, { ...numbers, scale: 'calls', side: 1, grid: { show: false } }],
    }, [chart.times, ...chart.series.map(s => s.values)], box));
    box.style.height = 'auto';
  }
  const drawAll = () => { if (window.uPlot) document.querySelectorAll('[data-chart]').forEach(draw); };

  document.addEventListener('DOMContentLoaded', drawAll);
  window.addEventListener('resize', () => drawn.forEach((plot, box) => plot.setSize({ width: box.clientWidth, height: 240 })));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);

  // The part that is live comes as a stream of events; where there is none, htmx asks for it again and again.
  let stream;
  function follow() {
    const at = document.getElementById('live')?.dataset.events;
    if (!at || stream?.at === at && !document.hidden) return;
    stream?.close();
    stream = undefined;
    if (document.hidden) return; // nobody looks
    stream = Object.assign(new EventSource(at), { at });
    stream.addEventListener('live', event => {
      const fresh = new DOMParser().parseFromString(event.data, 'text/html').getElementById('live');
      document.getElementById('live')?.replaceWith(fresh);
      window.htmx?.process(fresh);
      follow();
    });
  }
  document.addEventListener('DOMContentLoaded', follow);
  document.addEventListener('visibilitychange', follow);
  document.addEventListener('htmx:beforeRequest', event => {
    const streams = stream && stream.readyState !== EventSource.CLOSED;
    if (event.detail.elt.id === 'live' && (streams || document.hidden)) event.preventDefault();
  });

  document.addEventListener('click', async event => {
    const copy = event.target.closest('[data-copy]');
    if (copy) {
      const text = document.getElementById(copy.dataset.copy);
      try {
        await navigator.clipboard.writeText(text.innerText);
        copy.textContent = 'Copied';
      } catch { // not allowed: select it, for the keyboard
        getSelection().selectAllChildren(text);
      }
    }
  });
  // A second press of Open closes the row.
  document.addEventListener('click', event => {
    const open = event.target.closest('a.open');
    const cell = open && document.getElementById(open.getAttribute('aria-controls'));
    if (cell && cell.childElementCount) {
      event.preventDefault();
      event.stopImmediatePropagation();
      cell.replaceChildren();
      open.textContent = 'Open';
      open.removeAttribute('aria-expanded');
    } else if (open) {
      open.textContent = 'Close';
      open.setAttribute('aria-expanded', 'true');
    }
  }, true);
})();
