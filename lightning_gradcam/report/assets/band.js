// Draws runs that differ only in their seed as one curve: their mean, with their range as a band.
import {isKnown, largest, mean, means, smallest} from './numbers.js';
import {sameKey, stepAt} from './run.js';

// Returns the entries of the runs that differ from the named one only in their seed, including itself, one per seed;
// empty if there are no others. entries: {run, fingerprint, family, seed, steps}.
export function familyOf(name, entries) {
  const own = entries.find(({run}) => run === name);
  if (!own?.family) return [];
  const kin = entries.filter(
    ({fingerprint, family, steps}) => fingerprint === own.fingerprint && family === own.family && steps > 0,
  );
  const found = [...new Map([...kin, own].map((entry) => [entry.seed, entry])).values()];
  return found.length > 1 ? found : [];
}

// Returns a chart line: at each position, the mean and range over runs of a number's mean over probes. key: the key of
// the maps, such as a column; null for predictions.
export function bandSeries(scene, family, name, key, probes) {
  const ids = probes.map((probe) => scene.runs[0].probes[probe].id);
  const lines = family.map((run) => {
    const place = key === null ? -1 : run.keys.findIndex((other) => sameKey(key, other));
    const places = ids.map((id) => run.places.get(id)).filter((found) => found !== undefined);
    const values = key !== null && place < 0 ? run.steps.map(() => null) : means(run, name, place, places);
    return scene.positions.map((_, at) => {
      const {epoch, share} = scene.momentAt(at);
      return run.several.has(epoch) ? values[stepAt(run, epoch, share)] : null;
    });
  });
  const all = scene.positions.map((_, place) => lines.map((line) => line[place]).filter(isKnown));
  return {
    values: all.map(mean),
    band: {
      lows: all.map((values) => (values.length ? smallest(values) : null)),
      highs: all.map((values) => (values.length ? largest(values) : null)),
      counts: all.map((values) => values.length),
    },
  };
}

// Describes what the curves show, and for which runs.
export function bandWords({families, runs}) {
  const known = families.filter((family, r) => family.length > 0 && families.indexOf(family) === r);
  return known.map((family) => {
    const seeds = family.map(({header}) => header.seed).join(', ');
    const whose = families[0] === families[runs.length - 1] ? '' : ` like ${'AB'[families.indexOf(family)]}`;
    const known = 'according to hparams.yaml and config.yaml';
    return `mean and range of n = ${family.length} runs${whose} that differ only in their seed, ${known} (seeds ${seeds})`;
  });
}
