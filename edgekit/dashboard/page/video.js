// The live picture with its boxes. Pictures are pulled one at a time, so a slow browser sees fewer
// of them and never an old one; picture and boxes come together and are shown together.
const INTERVAL_MS = 95;
const STALE_MS = 2000;
const RETRY_MS = 1000;
const LABEL_PX = 12;
const BOXES_MAX = 200;
const LABEL_MAX = 40; // characters
const GLYPH = 0.61; // width of a monospace glyph, in font sizes

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

const HUES = 6;
const seen = new Map(); // labels get their colours in the order in which they first appear

function hueOf(label) {
  if (!seen.has(label)) seen.set(label, seen.size % HUES);
  return seen.get(label);
}

function overlap(one, other) {
  return (
    one.chipX < other.chipX + other.chipWidth && other.chipX < one.chipX + one.chipWidth &&
    one.chipY < other.chipY + other.chipHeight && other.chipY < one.chipY + one.chipHeight
  );
}

export default {
  template: `
    <div class="ek-video" :class="{ 'ek-stale': silent_s > 0 }" :style="{ aspectRatio: width + ' / ' + height, maxWidth: 'calc(72vh * ' + width / height + ')' }">
      <canvas ref="canvas"></canvas>
      <svg :viewBox="'0 0 ' + width + ' ' + height" preserveAspectRatio="none">
        <g v-for="(box, index) in boxes" :key="index" class="ek-box" :class="'ek-hue' + box.hue"
           :data-label="box.label" :data-score="box.score" :data-frame="frame">
          <rect class="ek-box-frame" :x="box.x" :y="box.y" :width="box.width" :height="box.height" rx="2"></rect>
          <rect class="ek-box-chip" :x="box.chipX" :y="box.chipY" :width="box.chipWidth" :height="box.chipHeight" rx="2"></rect>
          <text :x="box.chipX + 0.3 * font" :y="box.chipY + 1.08 * font" :font-size="font"
                :textLength="box.chipWidth - 0.6 * font" lengthAdjust="spacingAndGlyphs">{{ box.text }}</text>
        </g>
      </svg>
      <div class="ek-video-note" v-if="note">{{ note }}</div>
      <div class="ek-video-frame" v-if="frame !== null">frame {{ frame }}</div>
    </div>`,
  props: { stream: String },
  data() {
    return { boxes: [], width: 16, height: 9, font: 12, frame: null, silent_s: 0, waiting: true };
  },
  computed: {
    note() {
      if (!this.stream) return "no stream yet";
      if (this.waiting) return "waiting for the first picture of stream " + this.stream;
      return this.silent_s > 0 ? "no new picture for " + this.silent_s + " s" : "";
    },
  },
  watch: {
    stream() {
      this.forget();
    },
  },
  mounted() {
    this.forget();
    this.heard_ms = performance.now();
    this.gone = new AbortController();
    this.clock = setInterval(() => {
      const silent_ms = performance.now() - this.heard_ms;
      this.silent_s = silent_ms > STALE_MS ? Math.floor(silent_ms / 1000) : 0;
    }, 500);
    this.resized = new ResizeObserver(() => this.layOut());
    this.resized.observe(this.$el);
    this.pull();
  },
  unmounted() {
    this.gone.abort();
    clearInterval(this.clock);
    this.resized.disconnect();
  },
  methods: {
    forget() {
      Object.assign(this, { boxes: [], frame: null, waiting: true });
      this.serial = 0;
      this.detections = [];
    },
    async pull() {
      while (!this.gone.signal.aborted) {
        const begun_ms = performance.now();
        if (document.hidden || !this.stream) {
          await sleep(INTERVAL_MS);
          continue;
        }
        try {
          await this.pullOne(this.stream);
        } catch (error) {
          if (this.gone.signal.aborted) return;
          await sleep(RETRY_MS);
        }
        await sleep(Math.max(0, INTERVAL_MS - (performance.now() - begun_ms)));
      }
    },
    async pullOne(stream) {
      const path = "api/streams/" + encodeURIComponent(stream) + "/preview?after=" + this.serial;
      const response = await fetch(path, { signal: this.gone.signal });
      if (response.status !== 200) {
        if (response.status !== 204) await sleep(RETRY_MS);
        return;
      }
      const { serial, preview } = await response.json();
      const image = new Image();
      image.src = "data:image/jpeg;base64," + preview.jpeg;
      try {
        await image.decode();
      } catch (error) {
        this.serial = serial; // a damaged picture: skip it
        return;
      }
      if (stream === this.stream) this.show(serial, preview, image);
    },
    show(serial, preview, image) {
      const canvas = this.$refs.canvas;
      if (!canvas) return;
      if (canvas.width !== image.naturalWidth || canvas.height !== image.naturalHeight) {
        canvas.width = image.naturalWidth;
        canvas.height = image.naturalHeight;
      }
      canvas.getContext("2d").drawImage(image, 0, 0);
      this.serial = serial;
      this.detections = preview.detections;
      this.width = preview.width_px;
      this.height = preview.height_px;
      this.frame = preview.frame;
      this.waiting = false;
      this.heard_ms = performance.now();
      this.silent_s = 0;
      this.layOut();
    },
    layOut() {
      this.font = (LABEL_PX * this.width) / Math.max(1, this.$el.clientWidth);
      const placed = [];
      for (const detection of this.detections.slice(0, BOXES_MAX)) placed.push(this.boxOf(detection, placed));
      this.boxes = placed;
    },
    // Its chip goes above the box, else below, else inside: where no other chip is in the way.
    boxOf({ label, score, box }, placed) {
      const [x1, y1, x2, y2] = box;
      const text = label.slice(0, LABEL_MAX) + " " + score.toFixed(2);
      const chipWidth = (GLYPH * text.length + 0.6) * this.font;
      const chipHeight = 1.45 * this.font;
      const room = Math.max(0, this.height - chipHeight);
      const shown = {
        label, text, chipWidth, chipHeight,
        score: score.toFixed(3),
        hue: hueOf(label),
        x: x1, y: y1,
        width: Math.max(0, x2 - x1),
        height: Math.max(0, y2 - y1),
        chipX: Math.max(0, Math.min(x1, this.width - chipWidth)),
      };
      for (const y of [y1 - chipHeight, y2, y1]) {
        shown.chipY = Math.max(0, Math.min(y, room));
        if (shown.chipY === y && !placed.some((other) => overlap(shown, other))) break;
      }
      return shown;
    },
  },
};
